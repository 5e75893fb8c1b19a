//! Who may use the dashboard and the API. Owns which requests need credentials, and how many passwords
//! are verified at a time; probes and metrics are open to all.
//!
//! On a loopback address no password is required, as for other processes of the host or the pod; but a web page in the
//! browser of the host must not read the API through a name that resolves to 127.0.0.1, so the request has to name an
//! address or `localhost`. On any other address the request needs a password or the token.

use super::credentials::{AccessRules, Credentials, Digest, Missing, hash_of, is_token, is_user, missing};
use crate::admin::Console;
use crate::worker::workers::Workers;
use hyper::header::{HOST, HeaderMap};
use std::collections::VecDeque;
use std::future::ready;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::time::timeout;

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
const NOTHING_CONFIGURED: &str = "http_addr is not a loopback address, so the dashboard and the API require a password: set \
                                  http_token_file, or name a user of auth_file in stats_users. Probes and metrics need none.";

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
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
}
