//! Who may use the dashboard and the API. Owns the check of a request's credentials; probes and metrics are open to all.
//!
//! On a loopback address no password is required, as for other processes of the host or the pod; but a web page in the
//! browser of the host must not read the API through a name that resolves to 127.0.0.1, so the request has to name an
//! address or `localhost`. On any other address the request needs a password or the token.

use crate::admin::Console;
use crate::auth::md5;
use crate::auth::scram::keys::{SaltedPassword, ScramSecret};
use crate::config::{Config, UserEntry, UserList, read_text};
use crate::worker::workers::Workers;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::header::{AUTHORIZATION, HOST, HeaderMap};
use std::future::ready;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use zeroize::Zeroizing;

/// Largest token file, in bytes.
const MAX_TOKEN_BYTES: usize = 4096;
/// Shortest token: a shorter one could be guessed.
const MIN_TOKEN_BYTES: usize = 16;
/// Number of passwords that are verified at once: each takes some milliseconds of CPU time.
const MAX_CHECKS: usize = 2;
/// How long a wrong password keeps its place among them, which limits guesses to a few per second. Its request is answered at
/// once: probes must not wait for a connection.
const PENALTY: Duration = Duration::from_millis(500);
/// Time limit for the first worker to report the configuration in force.
const CONFIG_LIMIT: Duration = Duration::from_secs(1);
/// Salt and iterations of the derivation that takes the time of a real one.
const MOCK_SALT: &[u8; 16] = b"iambouncer-http\0";
const MOCK_ITERATIONS: u32 = 4096;

/// What a listener requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ListenerKind {
    /// Reached from this host only.
    Loopback,
    /// Reached from elsewhere.
    Network,
}

impl ListenerKind {
    /// The kind of a listener at this address.
    pub(super) fn of(address: SocketAddr) -> Self {
        if address.ip().to_canonical().is_loopback() { Self::Loopback } else { Self::Network }
    }
}

/// Why a request is rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AccessError {
    /// It has no credentials, or wrong ones.
    Unauthorized,
    /// No credentials could be sufficient; says why.
    Forbidden(String),
    /// The first worker does not answer, or too many passwords are being verified.
    Unavailable,
}

/// What a request presents.
enum Credentials {
    Bearer(Zeroizing<String>),
    Basic { user: String, password: Zeroizing<String> },
}

impl Credentials {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let (scheme, rest) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Self::Bearer(rest.to_owned().into()));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let bytes = Zeroizing::new(BASE64.decode(rest).ok()?);
        let (user, password) = std::str::from_utf8(&bytes).ok()?.split_once(':')?;
        Some(Self::Basic { user: user.to_owned(), password: password.to_owned().into() })
    }

    fn secret(&self) -> &str {
        match self {
            Self::Bearer(token) => token,
            Self::Basic { password, .. } => password,
        }
    }
}

/// Checks requests.
pub(super) struct AccessCheck {
    consoles: Workers<Console>,
    checks: Arc<Semaphore>,
}

impl AccessCheck {
    pub(super) fn new(consoles: Workers<Console>) -> Self {
        Self { consoles, checks: Arc::new(Semaphore::new(MAX_CHECKS)) }
    }

    /// Decides about a request that arrived at a listener of this kind.
    ///
    /// # Errors
    /// It is rejected.
    pub(super) async fn check(&self, listener: ListenerKind, headers: &HeaderMap) -> Result<(), AccessError> {
        let credentials = Credentials::of(headers);
        match (listener, credentials) {
            (ListenerKind::Loopback, None) if names_an_address(headers) => Ok(()),
            (ListenerKind::Loopback, None) => Err(AccessError::Forbidden(
                "On a loopback address, the request must name an address or localhost as its host."
                    .to_owned(),
            )),
            (_, credentials) => self.check_credentials(credentials).await,
        }
    }

    async fn check_credentials(&self, credentials: Option<Credentials>) -> Result<(), AccessError> {
        let in_force = |console: &std::rc::Rc<Console>| {
            let loaded = console.context.loaded();
            ready((loaded.config.clone(), loaded.users.clone()))
        };
        let question = self.consoles.question(0, in_force).map_err(|_| AccessError::Unavailable)?;
        let answer = timeout(CONFIG_LIMIT, question).await;
        let Ok(Ok((config, users))) = answer else { return Err(AccessError::Unavailable) };
        let checks = self.checks.clone();
        // Files are read, and keys derived, on another thread.
        let check = move || verify(credentials.as_ref(), &config, &users, &checks);
        tokio::task::spawn_blocking(check).await.unwrap_or(Err(AccessError::Unavailable))
    }
}

/// Decides about credentials. Blocks.
fn verify(
    credentials: Option<&Credentials>,
    config: &Config,
    users: &UserList,
    checks: &Arc<Semaphore>,
) -> Result<(), AccessError> {
    if credentials.is_some_and(|given| is_token(&config.settings.http_token_file, given.secret())) {
        return Ok(());
    }
    if let Some(reason) = missing(config, users) {
        return Err(AccessError::Forbidden(reason));
    }
    let Some(Credentials::Basic { user, password }) = credentials else {
        return Err(AccessError::Unauthorized);
    };
    let place = checks.clone().try_acquire_owned().map_err(|_| AccessError::Unavailable)?;
    if is_user(user, password, config, users) {
        return Ok(());
    }
    tokio::spawn(async move {
        tokio::time::sleep(PENALTY).await;
        drop(place);
    });
    Err(AccessError::Unauthorized)
}

/// True if the host of the request is an address or `localhost`, which no other name can be made to resolve to.
fn names_an_address(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST).and_then(|host| host.to_str().ok()) else { return false };
    let without_port = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    without_port.eq_ignore_ascii_case("localhost") || without_port.parse::<IpAddr>().is_ok()
}

/// Why no credentials can be sufficient with this configuration.
fn missing(config: &Config, users: &UserList) -> Option<String> {
    let path = &config.settings.http_token_file;
    if !path.is_empty() {
        return token(path).err();
    }
    let can_log_in = |user: &str, entry: &UserEntry| is_reader(config, user) && !entry.is_iam_token();
    if users.iter().any(|(user, entry)| can_log_in(user, entry)) {
        return None;
    }
    Some(
        "http_addr is not a loopback address, so the dashboard and the API require a password: set http_token_file, or \
         name a user of auth_file in stats_users. Probes and metrics need none."
            .to_owned(),
    )
}

fn is_reader(config: &Config, user: &str) -> bool {
    config.settings.is_stats_user(user) || config.settings.is_admin(user)
}

/// The token in a file.
fn token(path: &str) -> Result<Zeroizing<String>, String> {
    let text = Zeroizing::new(
        read_text(Path::new(path), MAX_TOKEN_BYTES)
            .map_err(|reason| format!("http_token_file {path}: {reason}"))?,
    );
    let token = text.trim();
    if token.len() < MIN_TOKEN_BYTES {
        return Err(format!("http_token_file {path}: the token has fewer than {MIN_TOKEN_BYTES} characters"));
    }
    Ok(token.to_owned().into())
}

fn is_token(path: &str, secret: &str) -> bool {
    !path.is_empty() && token(path).is_ok_and(|token| is_same(&token, secret))
}

/// Compares without revealing by its time where the difference is.
fn is_same(a: &str, b: &str) -> bool {
    let hash = |text: &str| digest(&SHA256, text.as_bytes());
    verify_slices_are_equal(hash(a).as_ref(), hash(b).as_ref()).is_ok()
}

fn is_user(user: &str, password: &str, config: &Config, users: &UserList) -> bool {
    let entry = users.get(user).filter(|entry| is_reader(config, user) && !entry.is_iam_token());
    let stored = entry.map(|entry| entry.password.expose()).unwrap_or_default();
    let scram = ScramSecret::parse(stored);
    // One derivation for every attempt: the time must not reveal which users exist.
    let (salt, iterations) = scram
        .as_ref()
        .map_or((MOCK_SALT.as_slice(), MOCK_ITERATIONS), |secret| (&secret.salt, secret.iterations));
    let Ok(derived) = SaltedPassword::derive(password, salt, iterations) else { return false };
    let is_right = match &scram {
        Some(secret) => is_same(&derived.secret(salt, iterations).stored_text(), &secret.stored_text()),
        None if md5::is_stored(stored) => is_same(&md5::stored(user, password), stored),
        None => is_same(password, stored),
    };
    is_right && !stored.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::userlist::parse as parse_user_list;

    fn headers(pairs: &[(hyper::header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn names_that_resolve_to_loopback_are_not_addresses() {
        for host in ["127.0.0.1:9127", "127.0.0.1", "[::1]:9127", "localhost:9127", "LOCALHOST"] {
            assert!(names_an_address(&headers(&[(HOST, host)])), "{host}");
        }
        for host in ["rebound.example:9127", "localhost.example", "", "127.0.0.1.example"] {
            assert!(!names_an_address(&headers(&[(HOST, host)])), "{host}");
        }
        assert!(!names_an_address(&HeaderMap::new()));
    }

    #[test]
    fn every_stored_form_is_verified_and_only_readers_are_admitted() {
        let mut config = Config::default();
        config.settings.set("stats_users", "plain, hashed, scram, empty, token").unwrap();
        config.settings.set("admin_users", "root").unwrap();
        let scram = SaltedPassword::derive("right", b"salt", 4096).unwrap().secret(b"salt", 4096);
        let text = format!(
            "\"plain\" \"right\"\n\"hashed\" \"{}\"\n\"scram\" \"{}\"\n\"empty\" \"\"\n\"root\" \"right\"\n\"other\" \"right\"\n",
            *md5::stored("hashed", "right"),
            *scram.stored_text()
        );
        let users = parse_user_list("users", &text).unwrap();
        let admits = |user: &str, password: &str| is_user(user, password, &config, &users);
        for user in ["plain", "hashed", "scram", "root"] {
            assert!(admits(user, "right") && !admits(user, "wrong") && !admits(user, ""), "{user}");
        }
        assert!(!admits("other", "right") && !admits("unknown", "right") && !admits("empty", ""));
        let stored = md5::stored("hashed", "right").to_string();
        assert!(!admits("hashed", &stored), "the stored form is not the password");
    }

    #[test]
    fn tokens_are_accepted_as_bearer_and_as_password_and_short_ones_never() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        std::fs::write(path, "0123456789abcdef\n").unwrap();
        assert!(
            is_token(path, "0123456789abcdef") && !is_token(path, "0123456789abcdee") && !is_token(path, "")
        );
        assert!(!is_token("", ""));
        std::fs::write(path, "short\n").unwrap();
        assert!(!is_token(path, "short"));
        let basic = format!("Basic {}", BASE64.encode("any:0123456789abcdef"));
        for value in ["Bearer 0123456789abcdef", &basic] {
            let credentials = Credentials::of(&headers(&[(AUTHORIZATION, value)])).unwrap();
            assert_eq!(credentials.secret(), "0123456789abcdef");
        }
        for value in ["Basic !!!", "Basic", "Digest x", "Basic bm9jb2xvbg=="] {
            assert!(Credentials::of(&headers(&[(AUTHORIZATION, value)])).is_none(), "{value}");
        }
    }

    #[tokio::test]
    async fn wrong_passwords_are_limited_and_do_not_lock_out_the_token() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0123456789abcdef").unwrap();
        let mut config = Config::default();
        config.settings.set("stats_users", "ann").unwrap();
        config.settings.set("http_token_file", file.path().to_str().unwrap()).unwrap();
        let users = parse_user_list("users", "\"ann\" \"right\"").unwrap();
        let checks = Arc::new(Semaphore::new(MAX_CHECKS));
        let verify = |password: &str| {
            let given = Credentials::Basic { user: "ann".to_owned(), password: password.to_owned().into() };
            verify(Some(&given), &config, &users, &checks)
        };
        assert_eq!(verify("right"), Ok(()));
        for _ in 0..MAX_CHECKS {
            assert_eq!(verify("wrong"), Err(AccessError::Unauthorized));
        }
        assert_eq!(verify("right"), Err(AccessError::Unavailable));
        assert_eq!(verify("0123456789abcdef"), Ok(()));
        checks.acquire().await.unwrap().forget();
    }

    #[test]
    fn what_is_missing_is_reported() {
        let (mut config, users) = (Config::default(), UserList::default());
        assert!(missing(&config, &users).unwrap().contains("http_token_file"));
        config.settings.set("stats_users", "ann").unwrap();
        assert_eq!(missing(&config, &parse_user_list("users", "\"ann\" \"x\"").unwrap()), None);
        config.settings.set("http_token_file", "/nonexistent/token").unwrap();
        assert!(missing(&config, &users).unwrap().contains("/nonexistent/token"));
    }
}
