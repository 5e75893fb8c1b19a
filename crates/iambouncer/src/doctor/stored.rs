//! Tokens stored as passwords: in the configuration, in `auth_file`, and in environment variables that applications
//! read. Owns the list of places; reveals no more of a password than that it is a token, and its age.

use super::checks::{Check, Finding};
use crate::config::{Database, Environment, ServerAuth};
use crate::context::ConfigFiles;
use crate::login_failure::LoginFailure;
use crate::server::diagnosis::StoredToken;
use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

/// Variables that contain a password.
const PASSWORD_VARIABLES: &[&str] =
    &["PGPASSWORD", "DB_PASSWORD", "POSTGRES_PASSWORD", "POSTGRESQL_PASSWORD", "IAMBOUNCER_DB_PASSWORD"];
/// Variables that contain a URL with a password.
const URL_VARIABLES: &[&str] = &["DATABASE_URL", "POSTGRES_URL", "POSTGRESQL_URL"];

/// Checks all places. A token that the pooler would send is a failure; one that is unused because IAM is configured,
/// or is in the environment, is a warning.
pub(super) fn check(loaded: &ConfigFiles, environment: &dyn Environment, now_seconds: i64) -> Finding {
    let sends_password =
        |line: &Database| line.server_auth == ServerAuth::Password && line.secret_arn.is_none();
    let lines = loaded.config.all_databases().filter_map(|line| {
        let password = line.password.as_ref()?;
        Some((format!("password= of database \"{}\"", line.name), password.expose(), sends_password(line)))
    });
    // A user's stored password is sent to the servers of lines that have no other credentials.
    let is_sent = loaded.config.all_databases().any(|line| sends_password(line) && line.password.is_none());
    let users = loaded.users.iter().map(|(user, entry)| {
        (format!("the entry of \"{user}\" in auth_file"), entry.password.expose(), is_sent)
    });
    let mut unused = None;
    for (place, password, is_sent) in lines.chain(users) {
        let Some((cause, text)) = diagnose(password, now_seconds) else { continue };
        let summary = format!("{place} is a token");
        if is_sent {
            return Finding::failure(Check::Passwords, summary, cause, text.as_deref());
        }
        unused = unused.or_else(|| Some(Finding::warning(Check::Passwords, summary, cause, text.as_deref())));
    }
    if let Some(unused) = unused {
        return unused;
    }
    for (name, password) in variables(environment) {
        if let Some((cause, text)) = diagnose(&password, now_seconds) {
            let summary = format!("{name} holds a token");
            return Finding::warning(Check::Passwords, summary, cause, text.as_deref());
        }
    }
    Finding::pass(Check::Passwords, "no token is stored as a password")
}

fn diagnose(password: &str, now_seconds: i64) -> Option<(LoginFailure, Option<String>)> {
    StoredToken::read(password).map(|token| token.diagnose(now_seconds))
}

/// Passwords in variables. A password in a URL may or may not be percent-encoded.
fn variables(environment: &dyn Environment) -> Vec<(&'static str, Zeroizing<String>)> {
    let plain = PASSWORD_VARIABLES.iter().map(|&name| (name, environment.get(name).map(Zeroizing::new)));
    let urls = URL_VARIABLES.iter().map(|&name| {
        let url = environment.get(name).map(Zeroizing::new);
        (name, url.as_ref().and_then(|url| password_of(url)))
    });
    plain.chain(urls).filter_map(|(name, value)| Some((name, value?))).collect()
}

/// The text between user and host. Not a general URL parser: a token that is not encoded contains `/` and `?`.
fn password_of(url: &str) -> Option<Zeroizing<String>> {
    let (_, rest) = url.split_once("://")?;
    let (user_info, _) = rest.rsplit_once('@')?;
    let (_, password) = user_info.split_once(':')?;
    Some(Zeroizing::new(percent_decode_str(password).decode_utf8_lossy().into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MapEnvironment;

    #[test]
    fn tokens_in_urls_are_found_encoded_or_not() {
        let token = format!(
            "db:5432/?Action=connect&X-Amz-Credential=A&X-Amz-Date=20240115T123456Z&X-Amz-Signature={}",
            "a".repeat(64)
        );
        let encoded = rds_iam::percent_encode(&token);
        for password in [&token, &encoded] {
            let url = format!("postgresql://app:{password}@db/app");
            let environment: MapEnvironment = [("DATABASE_URL", url)].into_iter().collect();
            let found = variables(&environment);
            assert!(matches!(diagnose(&found[0].1, 0), Some((LoginFailure::StaticToken, _))), "{password}");
        }
        assert!(diagnose("secret", 0).is_none());
    }
}
