//! The target that a token is signed for. Owns the choice of name, port and region – as configured, otherwise from the
//! first RDS name behind the host – and never falls back to a default region: RDS refuses a token for the wrong region
//! without a reason.

use super::error::LoginError;
use crate::config::Database;
use crate::login_failure::LoginFailure;
use rds_iam::{Identity, Region, TokenKey, region_of};

/// Token settings of a database line.
#[derive(Clone, Debug)]
pub struct Signing {
    /// `iam_host`.
    pub host: Option<String>,
    /// `iam_port`.
    pub port: Option<u16>,
    /// `iam_region`.
    pub region: Option<String>,
    /// Region for names that do not contain one.
    pub region_fallback: Option<String>,
    /// The signing identity.
    pub identity: Identity,
}

impl Signing {
    /// From a database line.
    pub fn of(line: &Database) -> Self {
        Self {
            host: line.iam_host.clone(),
            port: line.iam_port,
            region: line.iam_region.clone(),
            region_fallback: line.iam_region_fallback.clone(),
            identity: line.aws_identity(),
        }
    }

    /// True if signing depends on the host's aliases.
    pub fn follows_aliases(&self, host: &str) -> bool {
        self.host.is_none() && rds_iam::RdsEndpoint::parse(host).is_none()
    }

    /// The token to request. `rds_name` is the first RDS endpoint in the host's CNAME chain.
    ///
    /// # Errors
    /// A UNIX socket without `iam_host`, or no region.
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
                let reason = format!("{host} is not the name of an RDS endpoint or an alias (CNAME) of one");
                return Err(failed(reason, LoginFailure::MissingRegion));
            }
        };
        let identity = Identity { sts_region: Some(region.clone()), ..self.identity.clone() };
        let port = self.port.unwrap_or(port);
        TokenKey::new(host, port, user, Some(region), identity)
            .map_err(|error| failed(error.to_string(), LoginFailure::WrongRegion))
    }
}
