//! A token about to be sent to a server. Owns the rule that only a server whose host name was verified on the same
//! connection receives it. No setting overrides that.

use super::error::LoginError;
use crate::config::Secret;
use crate::net::verified::VerifiedName;
use rds_iam::{Token, TokenKey};
use std::time::SystemTime;

/// A token for one server.
#[derive(Clone, Copy)]
pub(super) struct TokenForServer<'a> {
    pub(super) key: &'a TokenKey,
    text: &'a str,
    pub(super) access_key_id: &'a str,
    pub(super) expires_at_seconds: i64,
}

impl<'a> TokenForServer<'a> {
    pub(super) fn generated(key: &'a TokenKey, token: &'a Token) -> Self {
        let ends = token.expires_at().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let expires_at_seconds = ends.as_secs() as i64;
        Self { key, text: token.expose(), access_key_id: token.access_key_id(), expires_at_seconds }
    }

    /// The caller has checked its expiry.
    pub(super) fn supplied(key: &'a TokenKey, token: &'a Secret) -> Self {
        Self { key, text: token.expose(), access_key_id: "", expires_at_seconds: i64::MAX }
    }

    /// The token, if the server was verified to have the name `expected`.
    ///
    /// # Errors
    /// No name, or a different one, was verified on the connection.
    pub(super) fn reveal(
        &self,
        verified: Option<&VerifiedName>,
        expected: &str,
    ) -> Result<&'a str, LoginError> {
        match verified {
            Some(name) if name.is(expected) => Ok(self.text),
            _ => Err(LoginError::TokenNeedsVerifiedName),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rds_iam::Identity;

    #[test]
    fn a_token_is_not_sent_without_a_verified_name() {
        let region = "eu-west-1".parse().ok();
        let key = TokenKey::new("db.example", 5432, "app", region, Identity::default()).unwrap();
        let token = Secret::new("a token");
        let shown = TokenForServer::supplied(&key, &token);
        assert_eq!(shown.reveal(None, "db.example"), Err(LoginError::TokenNeedsVerifiedName));
    }
}
