//! Tokens that somebody stored as passwords: in the configuration, in `auth_file`, and in variables that applications
//! read. Owns the places to look; never says more of a password than that it is a token, and how old.

use super::checks::{Check, Finding};
use crate::config::{Database, Environment, ServerAuth};
use crate::context::ConfigFiles;
use crate::login_failure::LoginFailure;
use crate::server::diagnosis::StoredToken;
use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

/// Variables in which passwords come, as they are.
const PASSWORD_VARIABLES: &[&str] =
    &["PGPASSWORD", "DB_PASSWORD", "POSTGRES_PASSWORD", "POSTGRESQL_PASSWORD", "IAMBOUNCER_DB_PASSWORD"];
/// Variables with URLs that hold passwords.
const URL_VARIABLES: &[&str] = &["DATABASE_URL", "POSTGRES_URL", "POSTGRESQL_URL"];

/// Looks everywhere. What the pooler itself would send is in the way; what lies beside working IAM, or in the
/// environment, is only reported.
pub(super) fn check(loaded: &ConfigFiles, environment: &dyn Environment, now_seconds: i64) -> Finding {
    let sends_password =
        |line: &Database| line.server_auth == ServerAuth::Password && line.secret_arn.is_none();
    let lines = loaded.config.all_databases().filter_map(|line| {
        let password = line.password.as_ref()?;
        Some((format!("password= of database \"{}\"", line.name), password.expose(), sends_password(line)))
    });
    // What is stored for a user goes to the servers of lines that have nothing else to send.
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

/// Passwords in variables. In a URL the password may be percent-encoded, as it should be, or not.
fn variables(environment: &dyn Environment) -> Vec<(&'static str, Zeroizing<String>)> {
    let plain = PASSWORD_VARIABLES.iter().map(|&name| (name, environment.get(name).map(Zeroizing::new)));
    let urls = URL_VARIABLES.iter().map(|&name| {
        let url = environment.get(name).map(Zeroizing::new);
        (name, url.as_ref().and_then(|url| password_of(url)))
    });
    plain.chain(urls).filter_map(|(name, value)| Some((name, value?))).collect()
}

/// What stands between the user and the host. A token that is not encoded has `/` and `?` in it, so this is no way to
/// read URLs in general.
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
