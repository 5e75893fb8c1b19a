//! Credentials of a request for the dashboard or the API, and whether they are sufficient with the configuration in force.
//! Owns their forms; how many are verified at a time is decided by [`super::access`].

use crate::auth::scram::keys::{SaltedPassword, ScramSecret};
use crate::auth::stored_password::{has_secret, is_stored_as, same};
use crate::config::{Config, UserEntry, UserList, read_text};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::header::{AUTHORIZATION, HeaderMap};
use std::path::Path;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Largest token file, in bytes.
const MAX_TOKEN_BYTES: usize = 4096;
/// Shortest token: a shorter one could be guessed.
const MIN_TOKEN_BYTES: usize = 16;
/// Salt and iterations of the derivation that takes the time of a real one.
const MOCK_SALT: &[u8; 16] = b"iambouncer-http\0";
const MOCK_ITERATIONS: u32 = 4096;

/// What a request presents.
pub(super) enum Credentials {
    Bearer(Zeroizing<String>),
    Basic { user: String, password: Zeroizing<String> },
}

impl Credentials {
    /// Those in the headers of a request; `None` if it has none, or malformed ones.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
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

    /// What may be the token.
    pub(super) fn secret(&self) -> &str {
        match self {
            Self::Bearer(token) => token,
            Self::Basic { password, .. } => password,
        }
    }
}

/// The configuration in force.
pub(super) struct AccessRules {
    pub(super) config: Arc<Config>,
    pub(super) users: Arc<UserList>,
}

/// A hash of an accepted password and of what it was compared with, which changes with the password in force.
pub(super) type Digest = [u8; 32];

pub(super) fn hash_of(user: &str, password: &str, rules: &AccessRules) -> Digest {
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

/// What keeps all credentials from being sufficient.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// Neither a token nor a user is configured.
    Setting,
    /// The token file cannot be used; for the log.
    Token(String),
}

/// Why no credentials can be sufficient with this configuration; `None` if some can.
pub(super) fn missing(config: &Config, users: &UserList) -> Option<Missing> {
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

/// True if this is the token in a file.
pub(super) fn is_token(path: &str, secret: &str) -> bool {
    !path.is_empty() && token(path).is_ok_and(|token| is_same(&token, secret))
}

/// Compares hashes, so that the time does not reveal the length of a token either.
fn is_same(a: &str, b: &str) -> bool {
    let hash = |text: &str| digest(&SHA256, text.as_bytes());
    same(hash(a).as_ref(), hash(b).as_ref())
}

/// True if the user may read the console, and this is the password in `auth_file`. Takes the time of a key derivation.
pub(super) fn is_user(user: &str, password: &str, config: &Config, users: &UserList) -> bool {
    let entry = users.get(user).filter(|entry| is_reader(config, user) && !entry.is_iam_token());
    let stored = entry.map(|entry| entry.password.expose()).unwrap_or_default();
    // One derivation for every attempt: the time must not reveal which users exist.
    let is_right = match ScramSecret::parse(stored) {
        Some(secret) => has_secret(password, &secret),
        None => {
            let derived = SaltedPassword::derive(password, MOCK_SALT, MOCK_ITERATIONS);
            derived.is_ok() && is_stored_as(user, password, stored)
        }
    };
    is_right && !stored.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::md5;
    use crate::config::userlist::parse as parse_user_list;

    fn headers(pairs: &[(hyper::header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
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
