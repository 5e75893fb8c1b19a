//! A token on its way to a server. Owns the rule of who gets to see it: a server whose host name was verified on the
//! connection over which the token is sent. No setting stands in for that.

use super::error::LoginError;
use crate::config::Secret;
use crate::net::verified::VerifiedName;
use rds_iam::{Token, TokenKey};
use std::time::SystemTime;

/// A token as it is shown to a server.
#[derive(Clone, Copy)]
pub(super) struct TokenForServer<'a> {
    pub(super) key: &'a TokenKey,
    text: &'a str,
    pub(super) access_key_id: &'a str,
    pub(super) ends_at_seconds: i64,
}

impl<'a> TokenForServer<'a> {
    pub(super) fn ours(key: &'a TokenKey, token: &'a Token) -> Self {
        let ends = token.expires_at().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let ends_at_seconds = ends.as_secs() as i64;
        Self { key, text: token.expose(), access_key_id: token.access_key_id(), ends_at_seconds }
    }

    /// Its time has been looked at by whoever hands it on.
    pub(super) fn given(key: &'a TokenKey, token: &'a Secret) -> Self {
        Self { key, text: token.expose(), access_key_id: "", ends_at_seconds: i64::MAX }
    }

    /// The token, for the server that was verified to have the name `expected`.
    ///
    /// # Errors
    /// No name was verified on the connection, or another one.
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
    fn without_a_verified_name_nobody_sees_a_token() {
        let region = "eu-west-1".parse().ok();
        let key = TokenKey::new("db.example", 5432, "app", region, Identity::default()).unwrap();
        let token = Secret::new("a token");
        let shown = TokenForServer::given(&key, &token);
        assert_eq!(shown.reveal(None, "db.example"), Err(LoginError::TokenNeedsVerifiedName));
    }
}
