//! Checks a target by a login with the pooler's own code. Owns the finding of each step, and the mapping of an error
//! to a step.

use super::TargetPath;
use super::certificate;
use super::checks::{Check, CheckOutcome, CheckStatus, Finding};
use super::sql;
use crate::config::{Host, ServerAuth};
use crate::context::Context;
use crate::login_failure::LoginFailure;
use crate::net::Endpoint;
use crate::server::connect::ServerAddress;
use crate::server::error::LoginStage;
use crate::server::login;
use crate::server::progress::{
    ConnectionDetails, LoginTrace, NameLookup, Progress, SecretDetails, TlsDetails, TokenDetails,
};
use crate::server::target::{self, Credential, LoginTarget};
use crate::server::{Diagnosis, LoginError, now_seconds};
use crate::worker::timers;
use crate::{identities, worker};
use rds_iam::{EndpointKind, RdsEndpoint};
use std::rc::Rc;

/// Maximum number of addresses to print.
const MAX_ADDRESSES: usize = 4;
/// A certificate that expires sooner is reported.
const SOON_SECONDS: i64 = 14 * certificate::SECONDS_PER_DAY;

/// The checks of a login.
const LOGIN_CHECKS: [Check; 8] = [
    Check::Dns,
    Check::Secret,
    Check::Token,
    Check::Tcp,
    Check::Tls,
    Check::Request,
    Check::Login,
    Check::Sql,
];

impl TargetPath {
    fn is_iam(&self) -> bool {
        self.line.server_auth == ServerAuth::Iam
    }

    /// The checks of a login, in order; those after the first failure are not reached.
    fn checks(&self) -> impl Iterator<Item = Check> {
        let (is_iam, has_secret) = (self.is_iam(), self.line.secret_arn.is_some());
        LOGIN_CHECKS.into_iter().filter(move |check| match check {
            Check::Token => is_iam,
            Check::Secret => has_secret,
            _ => true,
        })
    }
}

/// Tries a login and reports all its steps.
pub(super) async fn check(context: &Rc<Context>, path: &TargetPath, user: &str) -> Vec<Finding> {
    let loaded = context.loaded();
    let target = LoginTarget::new(&loaded, &path.line, &path.database, user, &path.host, || None);
    let progress = Progress::default();
    let began = worker::now();
    match login::log_in(context, &target, &progress).await {
        Ok(mut logged_in) => {
            let took = worker::now() - began;
            let mut findings = done(path, context, &progress.trace());
            findings.push(Finding::pass(Check::Login, "accepted").took(took));
            let expected = sql::LoginExpectation {
                is_iam: path.is_iam(),
                is_writer: is_writer(path),
                pool_size: loaded.config.pool_rules(&path.line, user).pool_size,
            };
            let limit = loaded.config.settings.server_connect_timeout;
            let asked = timers::timeout(limit, sql::check(&mut logged_in.stream, &expected)).await;
            findings.push(asked.unwrap_or_else(|| {
                let text = "no answer to a query within server_connect_timeout";
                Finding::failure(Check::Sql, text, LoginFailure::ServerBusy, None)
            }));
            logged_in.close();
            findings
        }
        Err(LoginError::UnusablePassword { asked: "SCRAM", .. }) if is_scram_secret(&target) => {
            let mut findings = done(path, context, &progress.trace());
            let text = "a SCRAM secret is stored: the keys become available with a client's login only";
            findings.push(Finding::not_reached(Check::Login, text));
            findings.push(Finding::not_reached(Check::Sql, "not reached"));
            findings
        }
        Err(error) => {
            let seen = progress.trace();
            let failing = failing(path, &seen, progress.stage(), &error);
            let failed = progress.explain(error);
            let mut findings = done(path, context, &seen);
            findings.retain(|finding| {
                path.checks().take_while(|check| *check != failing).any(|c| c == finding.check)
            });
            let hint = hint_of(context, &target, path, &failed).await;
            findings.push(Finding {
                check: failing,
                status: CheckStatus::Failure,
                summary: failed.error.to_string(),
                took: None,
                outcome: Some(CheckOutcome { cause: failed.cause, hint }),
            });
            let rest = path.checks().skip_while(|check| *check != failing).skip(1);
            findings.extend(rest.map(|check| Finding::not_reached(check, "not reached")));
            findings
        }
    }
}

fn is_scram_secret(target: &LoginTarget) -> bool {
    matches!(&target.credential, Credential::Password(stored) if target::is_scram_secret(stored))
}

fn is_writer(path: &TargetPath) -> bool {
    let kind = path.host.tcp().and_then(RdsEndpoint::parse).map(|endpoint| endpoint.kind());
    matches!(kind, Some(EndpointKind::ClusterWriter | EndpointKind::GlobalWriter))
}

/// The step to which an error belongs: the first that was not completed, unless the error is specific to another.
fn failing(path: &TargetPath, seen: &LoginTrace, stage: LoginStage, error: &LoginError) -> Check {
    match error {
        LoginError::NotAnIamUser { .. } => return Check::Request,
        LoginError::Tls { .. }
        | LoginError::NoTls
        | LoginError::TlsOff
        | LoginError::TokenNeedsVerifiedName => {
            return Check::Tls;
        }
        LoginError::Token { .. } | LoginError::LoginRate(_) => return Check::Token,
        LoginError::Secret { .. } => return Check::Secret,
        LoginError::SecretPassword { .. } => return Check::Login,
        LoginError::OwnListener(_) => return Check::Tcp,
        _ => {}
    }
    match seen {
        LoginTrace { found: None, .. } => Check::Dns,
        LoginTrace { token: None, .. } if path.is_iam() => Check::Token,
        LoginTrace { secret: None, .. } if path.line.secret_arn.is_some() => Check::Secret,
        LoginTrace { connected: None, .. } => Check::Tcp,
        _ if stage == LoginStage::Tls => Check::Tls,
        // A server that trusts the user sends no request, and may still refuse the login for other reasons.
        _ if matches!(error, LoginError::Refused { code, .. } if !code.starts_with("28")) => Check::Login,
        LoginTrace { asked: None, .. } => Check::Request,
        _ => Check::Login,
    }
}

/// The steps that were completed.
fn done(path: &TargetPath, context: &Rc<Context>, seen: &LoginTrace) -> Vec<Finding> {
    let steps = [
        seen.found.as_ref().map(|found| dns(path, found)),
        seen.secret.as_ref().map(secret),
        seen.token.as_ref().map(token),
        seen.connected.as_ref().map(tcp),
        seen.connected.as_ref().map(|connected| tls(context, connected, seen.secured.as_ref())),
        Some(request(path, seen.asked)),
    ];
    steps.into_iter().flatten().collect()
}

fn dns(path: &TargetPath, found: &NameLookup) -> Finding {
    let Host::Tcp(name) = &path.host else {
        return Finding::pass(Check::Dns, "a UNIX socket has no name to look up");
    };
    let mut words: Vec<String> =
        found.addresses.iter().take(MAX_ADDRESSES).map(|address| address.ip().to_string()).collect();
    if found.addresses.len() > MAX_ADDRESSES {
        words.push(format!("{} more", found.addresses.len() - MAX_ADDRESSES));
    }
    let alias = found.rds_name.as_ref().filter(|rds_name| !rds_name.eq_ignore_ascii_case(name));
    let alias = alias.map(|rds_name| format!("; alias of {rds_name}")).unwrap_or_default();
    Finding::pass(Check::Dns, words.join(", ") + &alias).took(found.took)
}

fn secret(read: &SecretDetails) -> Finding {
    Finding::pass(Check::Secret, format!("user {}, version {}", read.username, read.version_id))
}

fn token(made: &TokenDetails) -> Finding {
    let TokenDetails { key, access_key_id, ends_at, bytes } = made;
    let until = identities::text_of_time(*ends_at);
    let text = format!(
        "for {}:{} in {}, {bytes} bytes, by key {access_key_id}, until {until}",
        key.host, key.port, key.region
    );
    Finding::pass(Check::Token, text)
}

fn tcp(connected: &ConnectionDetails) -> Finding {
    Finding::pass(Check::Tcp, connected.endpoint.to_string()).took(connected.took)
}

fn tls(context: &Rc<Context>, connected: &ConnectionDetails, secured: Option<&TlsDetails>) -> Finding {
    let mode = context.config().settings.server_tls_sslmode;
    let Some(TlsDetails { description, certificate, took }) = secured else {
        let is_local = match &connected.endpoint {
            Endpoint::Unix(_) => true,
            Endpoint::Tcp(address) => address.ip().is_loopback(),
        };
        let text = format!("no encryption (server_tls_sslmode = {mode})");
        return if is_local {
            Finding::pass(Check::Tls, text)
        } else {
            unsafe_tls(text, "Anyone on the network path can read the traffic.")
        };
    };
    let described =
        certificate.as_ref().and_then(|certificate| certificate::describe(certificate, now_seconds()));
    let seconds_left = described.as_ref().map_or(i64::MAX, |described| described.seconds_left);
    let described = described.map(|described| format!(", {described}")).unwrap_or_default();
    let text = format!("{description}{described}");
    if !mode.verifies() {
        let text = format!("{text}, not verified (server_tls_sslmode = {mode})");
        return unsafe_tls(text, "An attacker on the network path can impersonate the server.");
    }
    if seconds_left < SOON_SECONDS {
        return Finding::warning(
            Check::Tls,
            text,
            LoginFailure::TlsTrust,
            Some("The certificate expires soon."),
        )
        .took(*took);
    }
    Finding::pass(Check::Tls, text).took(*took)
}

fn unsafe_tls(text: String, found: &str) -> Finding {
    Finding::warning(Check::Tls, text, LoginFailure::TlsOff, Some(found))
}

fn request(path: &TargetPath, asked: Option<&str>) -> Finding {
    let text = match asked {
        None => "nothing: the server trusts this user".to_owned(),
        Some(asked) if path.is_iam() => format!("{asked}, so the user is a member of rds_iam"),
        Some(asked) => asked.to_owned(),
    };
    Finding::pass(Check::Request, text)
}

/// The hint that the log and the client would receive, preceded by the certificate if the error is about it.
async fn hint_of(
    context: &Rc<Context>,
    target: &LoginTarget,
    path: &TargetPath,
    failed: &Diagnosis,
) -> String {
    if !matches!(failed.error, LoginError::Tls { .. }) {
        return failed.hint.clone();
    }
    let Ok(place) = ServerAddress::find(context, target).await else { return failed.hint.clone() };
    let config = context.config();
    let limit = config.settings.server_connect_timeout;
    let shown = timers::timeout(limit, certificate::show(context, &place, &config.settings)).await;
    let shown = shown.flatten().and_then(|certificate| certificate::describe(&certificate, now_seconds()));
    let mut found = match shown {
        Some(described) => format!("The server's certificate is {described}."),
        None => "The server sent no valid certificate.".to_owned(),
    };
    let region = path.host.tcp().and_then(rds_iam::region_of);
    if let Some(region) = region.filter(|region| !rds_iam::roots::covers(region)) {
        found.push_str(&format!(
            " The certificate authorities of {region} are not built in: download global-bundle.pem from AWS and set \
             server_tls_ca_file = rds, /path/global-bundle.pem."
        ));
    }
    format!("{found} {}", failed.hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Database;
    use std::time::Duration;

    fn path(server_auth: ServerAuth) -> TargetPath {
        let line = Database { server_auth, ..Database::new("app") };
        TargetPath {
            line,
            database: "app".into(),
            host: Host::parse("db.example"),
            user: None,
            identity: None,
        }
    }

    #[test]
    fn an_error_belongs_to_the_first_step_that_was_not_done() {
        let (iam, plain) = (path(ServerAuth::Iam), path(ServerAuth::Password));
        let broken = LoginError::BrokenOff("x".to_owned());
        let mut seen = LoginTrace::default();
        assert_eq!(failing(&iam, &seen, LoginStage::Network, &broken), Check::Dns);
        seen.found = Some(NameLookup { addresses: vec![], rds_name: None, took: Duration::ZERO });
        assert_eq!(failing(&iam, &seen, LoginStage::Credentials, &broken), Check::Token);
        assert_eq!(failing(&plain, &seen, LoginStage::Network, &broken), Check::Tcp);
        let endpoint = Endpoint::Tcp("127.0.0.1:1".parse().unwrap());
        seen.connected = Some(ConnectionDetails { endpoint, took: Duration::ZERO });
        assert_eq!(failing(&plain, &seen, LoginStage::Tls, &broken), Check::Tls);
        assert_eq!(failing(&plain, &seen, LoginStage::Answer, &broken), Check::Request);
        let not_iam = LoginError::NotAnIamUser { user: "app".into(), asked: "SCRAM" };
        seen.asked = Some("SCRAM");
        assert_eq!(failing(&plain, &seen, LoginStage::Answer, &broken), Check::Login);
        assert_eq!(failing(&iam, &seen, LoginStage::Answer, &not_iam), Check::Request);
    }
}
