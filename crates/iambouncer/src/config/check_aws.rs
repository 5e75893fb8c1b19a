//! Checks of the AWS settings of a database line: tokens, roles and secrets. Owns the rules that restrict tokens to
//! verified servers, and the syntax of AWS names. Never sends requests to AWS.

use super::build::ValuePlaces;
use super::diagnostics::Diagnostic;
use super::enums::{AuthType, ServerAuth};
use super::model::Database;
use super::settings_table::Settings;
use rds_iam::Arn;

const EXTERNAL_ID_CHARS: &str = "+=,.@:/-_";
const SESSION_NAME_CHARS: &str = "+=,.@-_";

pub(super) fn check_iam(
    database: &Database,
    settings: &Settings,
    places: &ValuePlaces,
    found: &mut Vec<Diagnostic>,
) {
    let name = &database.name;
    let at = |error: String, key: &str| Diagnostic::error(error).at(places.database(name, key));
    if database.iam_host.is_none() && !database.host.iter().any(|host| host.tcp().is_some()) {
        let error = format!("database \"{name}\": server_auth=iam needs a TCP host=, or iam_host=");
        found.push(at(error, "server_auth").help("a token is signed for the name of an RDS endpoint"));
    }
    let mode = settings.server_tls_sslmode;
    if !mode.verifies_name() {
        let reason = "a token is sent only to a server whose host name was verified";
        let error =
            format!("database \"{name}\": server_auth=iam with server_tls_sslmode = {mode}: {reason}");
        found.push(at(error, "server_auth").help("set server_tls_sslmode = verify-full"));
    }
    if database.password.is_some() {
        let error = format!("database \"{name}\": server_auth=iam and password= exclude each other");
        found.push(at(error, "password").help("remove password="));
    }
    check_role(database, places, found);
}

/// Characters and lengths that STS accepts for an external ID and a session name (AssumeRole, API reference).
fn check_role_options(database: &Database, places: &ValuePlaces, found: &mut Vec<Diagnostic>) {
    let name = &database.name;
    let options = [
        ("aws_external_id", &database.aws_external_id, EXTERNAL_ID_CHARS, 1224),
        ("aws_role_session_name", &database.aws_role_session_name, SESSION_NAME_CHARS, 64),
    ];
    for (key, value, others, longest) in options {
        let Some(value) = value else { continue };
        let is_legal = (2..=longest).contains(&value.len())
            && value.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c));
        if !is_legal {
            let error =
                format!("database \"{name}\": {key} must have 2 to {longest} letters, digits or {others}");
            found.push(Diagnostic::error(error).at(places.database(name, key)));
        }
        if database.aws_role_arn.is_none() {
            let warning = format!("database \"{name}\": {key} has no effect without aws_role_arn");
            found.push(Diagnostic::warning(warning).at(places.database(name, key)));
        }
    }
}

/// A login has one kind of credentials. The rest of the line selects the identity that reads the secret.
pub(super) fn check_secret(
    database: &Database,
    settings: &Settings,
    places: &ValuePlaces,
    found: &mut Vec<Diagnostic>,
) {
    let name = &database.name;
    // The client's proof is for a role of its own, which need not be entitled to the secret's user.
    if settings.auth_type == AuthType::Iam {
        let error = format!(
            "database \"{name}\": secret_arn and auth_type = iam exclude each other: any role of rds_iam would be \
             served as the user of the secret"
        );
        let help = "use server_auth = iam on this line, or another auth_type";
        found.push(Diagnostic::error(error).at(places.database(name, "secret_arn")).help(help));
    }
    if settings.auth_type == AuthType::Server {
        let text = format!(
            "database \"{name}\": with auth_type = server, every user of the server that may connect to this database \
             is served as the user of the secret"
        );
        found.push(Diagnostic::warning(text).at(places.database(name, "secret_arn")));
    }
    let others = [
        ("password=", database.password.is_some(), "remove password="),
        (
            "server_auth=iam",
            database.server_auth == ServerAuth::Iam,
            "remove secret_arn=, or server_auth=iam",
        ),
    ];
    for (given, _, help) in others.into_iter().filter(|(_, is_given, _)| *is_given) {
        let error = format!("database \"{name}\": secret_arn and {given} exclude each other");
        found.push(Diagnostic::error(error).at(places.database(name, "secret_arn")).help(help));
    }
    check_role(database, places, found);
}

fn check_role(database: &Database, places: &ValuePlaces, found: &mut Vec<Diagnostic>) {
    let name = &database.name;
    if database.aws_role_arn.as_deref().is_some_and(|arn| !is_role_arn(arn)) {
        let error = format!("database \"{name}\": aws_role_arn is not the ARN of a role");
        let help = "it looks like arn:aws:iam::123456789012:role/NAME";
        found.push(Diagnostic::error(error).at(places.database(name, "aws_role_arn")).help(help));
    }
    check_role_options(database, places, found);
}

pub(super) fn check_no_iam(database: &Database, places: &ValuePlaces, found: &mut Vec<Diagnostic>) {
    let name = &database.name;
    let has_secret = database.secret_arn.is_some();
    let given = [
        ("iam_host", database.iam_host.is_some()),
        ("iam_port", database.iam_port.is_some()),
        ("iam_region", database.iam_region.is_some()),
        ("aws_profile", database.aws_profile.is_some() && !has_secret),
        ("aws_role_arn", database.aws_role_arn.is_some() && !has_secret),
        ("aws_external_id", database.aws_external_id.is_some() && !has_secret),
        ("aws_role_session_name", database.aws_role_session_name.is_some() && !has_secret),
    ];
    for (key, _) in given.into_iter().filter(|(_, is_given)| *is_given) {
        let with = if key.starts_with("aws_") { "server_auth=iam or secret_arn" } else { "server_auth=iam" };
        let warning = format!("database \"{name}\": {key} has no effect without {with}");
        found.push(Diagnostic::warning(warning).at(places.database(name, key)));
    }
}

/// `arn:PARTITION:iam::ACCOUNT:role/NAME`, where NAME may have a path.
fn is_role_arn(text: &str) -> bool {
    let Some(Arn { service: "iam", region: "", resource, .. }) = Arn::parse(text) else { return false };
    resource.strip_prefix("role/").is_some_and(|name| !name.is_empty() && !name.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::found;
    use super::*;

    const VERIFIED: &str = "server_tls_sslmode = verify-full";

    #[test]
    fn iam_requires_verified_tls() {
        for mode in ["disable", "allow", "prefer", "require", "verify-ca"] {
            let texts = found(&format!("server_tls_sslmode = {mode}"), "a = host=h server_auth=iam");
            assert!(texts.len() == 1 && texts[0].contains("host name was verified"), "{texts:?}");
        }
        assert!(found(VERIFIED, "a = host=h server_auth=iam").is_empty());
    }

    #[test]
    fn iam_clients_require_verified_names_and_no_secret() {
        let clients = "auth_type = iam\nclient_tls_sslmode = require\nclient_tls_cert_file = c\nclient_tls_key_file = k";
        // The helper sets auth_type first.
        let with = |mode: &str, line: &str| -> Vec<String> {
            let all = found(&format!("server_tls_sslmode = {mode}\n{clients}"), line);
            all.into_iter().filter(|text| !text.contains("is set twice")).collect()
        };
        assert_eq!(with("verify-full", "a = host=h"), Vec::<String>::new());
        for mode in ["require", "verify-ca"] {
            let texts = with(mode, "a = host=h");
            assert!(
                texts.len() == 1 && texts[0].contains("needs server_tls_sslmode = verify-full"),
                "{texts:?}"
            );
        }
        let arn = "secret_arn=arn:aws:secretsmanager:eu-west-1:123456789012:secret:app-a1B2c3";
        for line in
            [format!("a = host=h {arn}"), format!("a = host=h user=u {arn}"), format!("* = host=h {arn}")]
        {
            let texts = with("verify-full", &line);
            assert!(texts.len() == 1 && texts[0].contains("any role of rds_iam"), "{texts:?}");
        }
    }

    #[test]
    fn iam_requires_a_host_name_and_no_password() {
        let first = |line: &str| found(VERIFIED, line).into_iter().next().unwrap_or_default();
        assert!(first("a = server_auth=iam").contains("needs a TCP host="));
        assert_eq!(first("a = host=/run/pg iam_host=h server_auth=iam"), "");
        assert!(first("a = host=h server_auth=iam password=x").contains("exclude each other"));
        assert!(first("a = host=h iam_region=x").contains("no effect without server_auth=iam"));
    }

    #[test]
    fn role_options_follow_the_rules_of_sts() {
        let line = |options: &str| {
            let role = "aws_role_arn=arn:aws:iam::123456789012:role/x";
            found(VERIFIED, &format!("a = host=h server_auth=iam {role} {options}"))
        };
        assert_eq!(line("aws_external_id=a:b/c aws_role_session_name=pool@prod"), Vec::<String>::new());
        assert!(line("aws_external_id=x")[0].contains("2 to 1224"));
        assert!(line("aws_role_session_name=a/b")[0].contains("2 to 64"));
        let alone = found(VERIFIED, "a = host=h server_auth=iam aws_external_id=abc");
        assert!(alone[0].contains("no effect without aws_role_arn"), "{alone:?}");
    }

    #[test]
    fn a_secret_excludes_other_credentials_and_must_be_an_arn() {
        let arn = "secret_arn=arn:aws:secretsmanager:eu-west-1:123456789012:secret:app-a1B2c3";
        assert_eq!(found("", &format!("a = host=h {arn} aws_profile=prod")), Vec::<String>::new());
        assert!(found("", &format!("a = host=h {arn} password=x"))[0].contains("exclude each other"));
        assert!(
            found(VERIFIED, &format!("a = host=h {arn} server_auth=iam"))[0].contains("exclude each other")
        );
        assert!(found("", "a = host=h secret_arn=prod/app")[0].contains("is not the ARN of a secret"));
        assert!(found("", &format!("a = host=h {arn} aws_role_arn=x"))[0].contains("not the ARN of a role"));
        let clients = found("auth_type = plain", &format!("a = host=h {arn}"));
        assert!(!clients.iter().any(|text| text.contains("no client can log in")), "{clients:?}");
        assert!(found("secret_refresh = 0", "a = host=h")[0].contains("at least 1 second"));
        assert!(found("", "a = host=h aws_profile=x")[0].contains("without server_auth=iam or secret_arn"));
    }

    #[test]
    fn role_arns_are_validated() {
        assert!(is_role_arn("arn:aws:iam::123456789012:role/path/name"));
        assert!(is_role_arn("arn:aws-us-gov:iam::123456789012:role/x"));
        for bad in [
            "x",
            "arn:aws:iam::12345678901:role/x",
            "arn:aws:iam::123456789012:user/x",
            "arn:aws:sts::123456789012:role/x",
            "arn:aws:iam::123456789012:role/",
        ] {
            assert!(!is_role_arn(bad), "{bad}");
        }
    }
}
