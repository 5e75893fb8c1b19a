//! What a token of one login is made for. Owns the choice of name, port and region – what is configured, else the first
//! RDS name behind the host – and never a default region: RDS refuses the wrong one without a word about it.

use super::error::LoginError;
use crate::config::Database;
use crate::login_failure::LoginFailure;
use rds_iam::{Identity, Region, TokenKey, region_of};

/// What a database line says about its tokens.
#[derive(Clone, Debug)]
pub struct Signing {
    /// `iam_host`.
    pub host: Option<String>,
    /// `iam_port`.
    pub port: Option<u16>,
    /// `iam_region`.
    pub region: Option<String>,
    /// Region for names that tell none.
    pub region_fallback: Option<String>,
    /// Who signs.
    pub identity: Identity,
}

impl Signing {
    /// Of a line.
    pub fn of(line: &Database) -> Self {
        Self {
            host: line.iam_host.clone(),
            port: line.iam_port,
            region: line.iam_region.clone(),
            region_fallback: line.iam_region_fallback.clone(),
            identity: line.aws_identity(),
        }
    }

    /// Whether the names behind the host have to be known to sign.
    pub fn follows_aliases(&self, host: &str) -> bool {
        self.host.is_none() && rds_iam::RdsEndpoint::parse(host).is_none()
    }

    /// The token to ask for. `rds_name` is the first RDS endpoint among the names behind the host.
    ///
    /// # Errors
    /// A UNIX socket without `iam_host`, and a region that nothing tells.
    pub fn key(
        &self,
        host: Option<&str>,
        port: u16,
        user: &str,
        rds_name: Option<&String>,
    ) -> Result<TokenKey, LoginError> {
        let failed = |reason: String, cause| LoginError::Token {
            user: user.to_owned(),
            reason,
            cause,
            advice: None,
            is_transient: false,
        };
        let host = match (&self.host, rds_name, host) {
            (Some(host), _, _) | (None, Some(host), _) => host.as_str(),
            (None, None, Some(host)) => host,
            (None, None, None) => {
                let reason = "a UNIX socket has no endpoint to sign for; set iam_host".to_owned();
                return Err(failed(reason, LoginFailure::SignedHost));
            }
        };
        let named = |text: &String| {
            text.parse::<Region>().map_err(|error| failed(error.to_string(), LoginFailure::WrongRegion))
        };
        let region = match (&self.region, region_of(host), &self.region_fallback) {
            (Some(text), _, _) | (None, None, Some(text)) => named(text)?,
            (None, Some(region), _) => region,
            (None, None, None) => {
                let reason = format!("{host} is not the name of an RDS endpoint and no alias (CNAME) of one");
                return Err(failed(reason, LoginFailure::MissingRegion));
            }
        };
        let identity = Identity { sts_region: Some(region.clone()), ..self.identity.clone() };
        let port = self.port.unwrap_or(port);
        TokenKey::new(host, port, user, Some(region), identity)
            .map_err(|error| failed(error.to_string(), LoginFailure::WrongRegion))
    }
}
