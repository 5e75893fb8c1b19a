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
use std::collections::VecDeque;
use std::future::ready;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use zeroize::Zeroizing;

/// Largest token file, in bytes.
const MAX_TOKEN_BYTES: usize = 4096;
/// Shortest token: a shorter one could be guessed.
const MIN_TOKEN_BYTES: usize = 16;
/// Number of passwords that are verified at once: each takes some milliseconds of CPU time.
const MAX_CHECKS: usize = 2;
/// Number of requests that may wait for that, and for how long: probes need connections, too.
const MAX_WAITING: usize = 8;
const MAX_WAIT: Duration = Duration::from_secs(1);
/// How long a wrong password keeps its place among those that are verified, which limits guesses to a few per second.
const PENALTY: Duration = Duration::from_millis(500);
/// Number of accepted passwords whose hash is remembered: a page makes several requests at once, and guesses of others must
/// not keep it waiting.
const MAX_REMEMBERED: usize = 16;
/// The reason why a token file cannot be used is logged once in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
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
#[derive(Clone)]
pub(super) struct AccessCheck {
    consoles: Workers<Console>,
    state: Arc<CheckState>,
}

/// What all requests share.
struct CheckState {
    checks: Arc<Semaphore>,
    waiting: Semaphore,
    remembered: Mutex<VecDeque<Digest>>,
    logged_at: Mutex<Option<Instant>>,
}

impl Default for CheckState {
    fn default() -> Self {
        Self {
            checks: Arc::new(Semaphore::new(MAX_CHECKS)),
            waiting: Semaphore::new(MAX_WAITING),
            remembered: Mutex::default(),
            logged_at: Mutex::default(),
        }
    }
}

impl AccessCheck {
    pub(super) fn new(consoles: Workers<Console>) -> Self {
        Self { consoles, state: Arc::default() }
    }

    /// Decides about a request that arrived at a listener of this kind.
    ///
    /// # Errors
    /// It is rejected.
    pub(super) async fn check(&self, listener: ListenerKind, headers: &HeaderMap) -> Result<(), AccessError> {
        let credentials = Credentials::of(headers);
        match (listener, credentials) {
            (ListenerKind::Loopback, _) if names_an_address(headers) => Ok(()),
            (ListenerKind::Loopback, None) => Err(AccessError::Forbidden(
                "On a loopback address, the request must name an address or localhost as its host."
                    .to_owned(),
            )),
            (_, credentials) => {
                let in_force = |console: &Rc<Console>| {
                    let loaded = console.context.loaded();
                    ready((loaded.config.clone(), loaded.users.clone()))
                };
                let question = self.consoles.question(0, in_force).map_err(|_| AccessError::Unavailable)?;
                let answer = timeout(CONFIG_LIMIT, question).await;
                let Ok(Ok((config, users))) = answer else { return Err(AccessError::Unavailable) };
                let rules = Arc::new(AccessRules { config, users });
                self.state.clone().verify(credentials.map(Arc::new), rules).await
            }
        }
    }
}

/// The configuration in force.
struct AccessRules {
    config: Arc<Config>,
    users: Arc<UserList>,
}

/// What can be decided at once.
enum FirstLook {
    Permitted,
    /// A password that has to be verified.
    Password,
    Rejected(AccessError),
}

impl CheckState {
    async fn verify(
        self: Arc<Self>,
        credentials: Option<Arc<Credentials>>,
        rules: Arc<AccessRules>,
    ) -> Result<(), AccessError> {
        let (state, given, known) = (self.clone(), credentials.clone(), rules.clone());
        // Files are read, and keys derived, on another thread.
        let first = blocking(move || state.look(given.as_deref(), &known)).await?;
        match first {
            FirstLook::Permitted => return Ok(()),
            FirstLook::Rejected(error) => return Err(error),
            FirstLook::Password => {}
        }
        let waiting = self.waiting.try_acquire().map_err(|_| AccessError::Unavailable)?;
        let place = timeout(MAX_WAIT, self.checks.clone().acquire_owned()).await;
        let Ok(Ok(place)) = place else { return Err(AccessError::Unavailable) };
        drop(waiting);
        let state = self.clone();
        let outcome = blocking(move || state.check_password(credentials.as_deref(), &rules)).await?;
        if outcome.is_err() {
            tokio::spawn(async move {
                tokio::time::sleep(PENALTY).await;
                drop(place);
            });
        }
        outcome
    }

    fn look(&self, credentials: Option<&Credentials>, rules: &AccessRules) -> FirstLook {
        let path = &rules.config.settings.http_token_file;
        if credentials.is_some_and(|given| is_token(path, given.secret())) {
            return FirstLook::Permitted;
        }
        match credentials {
            Some(Credentials::Basic { user, password }) => {
                match self.remembered().contains(&hash_of(user, password, rules)) {
                    true => FirstLook::Permitted,
                    false => FirstLook::Password,
                }
            }
            Some(Credentials::Bearer(_)) | None => FirstLook::Rejected(self.rejection(rules)),
        }
    }

    fn check_password(
        &self,
        credentials: Option<&Credentials>,
        rules: &AccessRules,
    ) -> Result<(), AccessError> {
        let Some(Credentials::Basic { user, password }) = credentials else {
            return Err(AccessError::Unauthorized);
        };
        if !is_user(user, password, &rules.config, &rules.users) {
            return Err(self.rejection(rules));
        }
        let mut remembered = self.remembered();
        if remembered.len() >= MAX_REMEMBERED {
            remembered.pop_front();
        }
        remembered.push_back(hash_of(user, password, rules));
        Ok(())
    }

    fn remembered(&self) -> MutexGuard<'_, VecDeque<Digest>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wrong credentials, unless none could be sufficient.
    fn rejection(&self, rules: &AccessRules) -> AccessError {
        match missing(&rules.config, &rules.users) {
            None => AccessError::Unauthorized,
            Some(Missing::Setting) => AccessError::Forbidden(NOTHING_CONFIGURED.to_owned()),
            Some(Missing::Token(reason)) => {
                self.log(&reason);
                AccessError::Forbidden("http_token_file cannot be used; the log has the reason.".to_owned())
            }
        }
    }

    fn log(&self, reason: &str) {
        let mut logged_at = self.logged_at.lock().unwrap_or_else(PoisonError::into_inner);
        if logged_at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            *logged_at = Some(Instant::now());
            tracing::warn!("the dashboard cannot be opened: {reason}");
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, AccessError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| AccessError::Unavailable)
}

/// A hash of an accepted password and of what it was compared with, which changes with the password in force.
type Digest = [u8; 32];

fn hash_of(user: &str, password: &str, rules: &AccessRules) -> Digest {
    let stored = rules.users.get(user).filter(|_| is_reader(&rules.config, user));
    let stored = stored.map(|entry| entry.password.expose()).unwrap_or_default();
    let mut context = aws_lc_rs::digest::Context::new(&SHA256);
    for text in [user, password, stored] {
        context.update(&(text.len() as u64).to_be_bytes());
        context.update(text.as_bytes());
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// True if the host of the request is an address or `localhost`, which no other name can be made to resolve to.
fn names_an_address(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST).and_then(|host| host.to_str().ok()) else { return false };
    let without_port = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = without_port.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    without_port.eq_ignore_ascii_case("localhost")
        || without_port.parse::<Ipv4Addr>().is_ok()
        || address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok())
}

/// What keeps all credentials from being sufficient.
#[derive(Debug, PartialEq, Eq)]
enum Missing {
    /// Neither a token nor a user is configured.
    Setting,
    /// The token file cannot be used; for the log.
    Token(String),
}

const NOTHING_CONFIGURED: &str = "http_addr is not a loopback address, so the dashboard and the API require a password: set \
                                  http_token_file, or name a user of auth_file in stats_users. Probes and metrics need none.";

/// Why no credentials can be sufficient with this configuration; `None` if some can.
fn missing(config: &Config, users: &UserList) -> Option<Missing> {
    let can_log_in = |user: &str, entry: &UserEntry| is_reader(config, user) && !entry.is_iam_token();
    if users.iter().any(|(user, entry)| can_log_in(user, entry)) {
        return None;
    }
    match config.settings.http_token_file.as_str() {
        "" => Some(Missing::Setting),
        path => token(path).err().map(Missing::Token),
    }
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
        for host in [
            "rebound.example:9127",
            "localhost.example",
            "",
            "127.0.0.1.example",
            "[::1]x.example",
            "[::1]:x",
            "::1",
        ] {
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

    fn rules(settings: &[(&str, &str)]) -> Arc<AccessRules> {
        let mut config = Config::default();
        settings.iter().for_each(|(key, value)| config.settings.set(key, value).unwrap());
        let users = parse_user_list("users", "\"ann\" \"right\"").unwrap();
        Arc::new(AccessRules { config: Arc::new(config), users: Arc::new(users) })
    }

    async fn verify(
        state: &Arc<CheckState>,
        rules: &Arc<AccessRules>,
        password: &str,
    ) -> Result<(), AccessError> {
        let given = Credentials::Basic { user: "ann".to_owned(), password: password.to_owned().into() };
        state.clone().verify(Some(Arc::new(given)), rules.clone()).await
    }

    #[tokio::test]
    async fn wrong_passwords_lock_out_neither_the_token_nor_an_open_page() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0123456789abcdef").unwrap();
        let rules = rules(&[("stats_users", "ann"), ("http_token_file", file.path().to_str().unwrap())]);
        let state = Arc::new(CheckState::default());
        assert_eq!(verify(&state, &rules, "right").await, Ok(()));
        for _ in 0..MAX_CHECKS {
            assert_eq!(verify(&state, &rules, "wrong").await, Err(AccessError::Unauthorized));
        }
        assert_eq!(state.checks.available_permits(), 0);
        assert_eq!(verify(&state, &rules, "right").await, Ok(()), "remembered");
        assert_eq!(verify(&state, &rules, "0123456789abcdef").await, Ok(()));
        // A faulty token file does not matter to users.
        std::fs::remove_file(file.path()).unwrap();
        assert_eq!(verify(&state, &rules, "right").await, Ok(()));
    }

    #[tokio::test]
    async fn many_correct_requests_at_once_are_all_accepted() {
        let (rules, state) = (rules(&[("stats_users", "ann")]), Arc::new(CheckState::default()));
        let requests = (0..MAX_WAITING + MAX_CHECKS).map(|_| {
            let (state, rules) = (state.clone(), rules.clone());
            tokio::spawn(async move { verify(&state, &rules, "right").await })
        });
        for request in requests.collect::<Vec<_>>() {
            assert_eq!(request.await.unwrap(), Ok(()));
        }
    }

    #[test]
    fn what_is_missing_is_reported() {
        let (mut config, users) = (Config::default(), UserList::default());
        assert_eq!(missing(&config, &users), Some(Missing::Setting));
        config.settings.set("stats_users", "ann").unwrap();
        assert_eq!(missing(&config, &parse_user_list("users", "\"ann\" \"x\"").unwrap()), None);
        config.settings.set("http_token_file", "/nonexistent/token").unwrap();
        assert!(
            matches!(missing(&config, &users), Some(Missing::Token(reason)) if reason.contains("/nonexistent/token"))
        );
    }
}
