//! Tests of zero-config mode: common sets of variables, precedence, and rejected combinations.

use super::super::{MapEnvironment, PoolMode, TlsMode};
use super::*;

const ENDPOINT: &str = "db.abc.eu-central-1.rds.amazonaws.com";

fn resolve(
    endpoint: Option<&str>,
    flags: &ZeroConfigFlags,
    pairs: &[(&str, &str)],
) -> Result<ZeroConfigResult, Vec<Diagnostic>> {
    let environment: MapEnvironment = pairs.iter().copied().collect();
    zero_config(endpoint, flags, &environment)
}

fn from_variables(pairs: &[(&str, &str)]) -> ZeroConfigResult {
    resolve(None, &ZeroConfigFlags::default(), pairs).expect("complete")
}

fn source<'a>(resolved: &'a ZeroConfigResult, key: &str) -> &'a str {
    resolved.origins.iter().find(|origin| origin.key == key).map_or("", |origin| &origin.source)
}

#[test]
fn rds_host_variables_are_sufficient() {
    let resolved = from_variables(&[
        ("RDS_HOST", ENDPOINT),
        ("AWS_REGION", "eu-central-1"),
        ("DB_USERNAME", "app"),
        ("DB_NAME", "shop"),
        ("DB_PORT", "5433"),
    ]);
    let database = resolved.config.database_for("anything").expect("fallback");
    assert_eq!(database.host, [Host::Tcp(ENDPOINT.to_owned())]);
    assert_eq!((database.port, database.user.as_deref()), (5433, Some("app")));
    assert_eq!(database.server_dbname("anything"), "shop");
    assert_eq!(database.server_auth, ServerAuth::Iam);
    assert_eq!(
        (database.iam_region.as_deref(), database.iam_region_fallback.as_deref()),
        (None, Some("eu-central-1"))
    );
    assert!(resolved.config.databases.contains_key("shop"));
    assert_eq!(source(&resolved, "host"), "from RDS_HOST");
    assert_eq!(resolved.warnings, []);
}

#[test]
fn aws_iam_variables_are_sufficient() {
    let resolved = from_variables(&[
        ("AWS_IAM", "true"),
        ("AWS_RDS_REGION", "eu-west-1"),
        ("DB_NAME", "shop"),
        ("DB_USER", "app"),
        ("DB_HOST", "db.example"),
        ("DB_PORT", "5432"),
    ]);
    let database = resolved.config.fallback.as_ref().expect("fallback");
    assert_eq!((database.server_auth, database.iam_region.as_deref()), (ServerAuth::Iam, Some("eu-west-1")));
    assert_eq!(source(&resolved, "server_auth"), "from AWS_IAM");
    assert_eq!(resolved.warnings, []);
}

#[test]
fn aws_iam_false_selects_the_password_and_hides_it() {
    let pairs = [("AWS_IAM", "false"), ("DB_PASSWORD", "hunter2"), ("DB_USER", "app"), ("DB_HOST", "db")];
    let resolved = from_variables(&pairs);
    let database = resolved.config.fallback.as_ref().expect("fallback");
    assert_eq!(database.server_auth, ServerAuth::Password);
    assert_eq!(database.password.as_ref().map(Secret::expose), Some("hunter2"));
    assert!(!format!("{resolved:?}").contains("hunter2"));
    assert!(
        resolve(
            None,
            &ZeroConfigFlags::default(),
            &[("AWS_IAM", "maybe"), ("DB_USER", "a"), ("DB_HOST", "h")]
        )
        .is_err()
    );
}

#[test]
fn defaults_are_safe_and_have_a_source() {
    let resolved = from_variables(&[("PGHOST", "db"), ("PGUSER", "app"), ("DB_PORT", "")]);
    let settings = &resolved.config.settings;
    assert_eq!((settings.listen_addr.as_str(), settings.listen_port.first()), ("127.0.0.1", 6432));
    assert_eq!(settings.unix_socket_dir, "@iambouncer");
    assert_eq!((settings.auth_type, settings.pool_mode), (AuthType::Any, PoolMode::Transaction));
    assert_eq!(settings.server_tls_sslmode, TlsMode::VerifyFull);
    assert_eq!(source(&resolved, "server_tls_sslmode"), "default without a file");
    assert_eq!(source(&resolved, "port"), "default");
    let database = resolved.config.fallback.as_ref().expect("fallback");
    assert_eq!(database.server_dbname("theirs"), "theirs");
}

#[test]
fn listen_port_of_other_images_is_accepted_unless_kubernetes_made_it() {
    let base = [("PGHOST", "db"), ("PGUSER", "app")];
    let with = |more: &[(&'static str, &'static str)]| {
        let pairs: Vec<_> = base.iter().chain(more).copied().collect();
        from_variables(&pairs)
    };
    let both = with(&[("LISTEN_PORT", "5432,6432"), ("UNIX_SOCKET_DIR", "/run/a")]);
    let settings = &both.config.settings;
    assert_eq!(settings.listen_port.iter().collect::<Vec<_>>(), [5432, 6432]);
    assert_eq!(source(&both, "listen_port"), "from LISTEN_PORT");
    assert_eq!(settings.unix_socket_dir, "/run/a");
    let own = with(&[("LISTEN_PORT", "5432"), ("IAMBOUNCER_LISTEN_PORT", "7000")]);
    assert_eq!(own.config.settings.listen_port.first(), 7000);
    let link = with(&[("LISTEN_PORT", "tcp://10.0.0.1:80")]);
    assert_eq!(link.config.settings.listen_port.first(), 6432);
    assert!(
        resolve(None, &ZeroConfigFlags::default(), &[("PGHOST", "h"), ("PGUSER", "u"), ("LISTEN_PORT", "x")])
            .is_err()
    );
}

#[test]
fn flags_override_own_variables_which_override_aliases() {
    let pairs = [
        ("RDS_HOST", "alias"),
        ("IAMBOUNCER_DB_HOST", "own"),
        ("DB_USER", "alias"),
        ("IAMBOUNCER_LISTEN_PORT", "7000"),
        ("IAMBOUNCER_POOL_MODE", "session"),
    ];
    let flags =
        ZeroConfigFlags { user: Some("flag".into()), listen_port: Some("7001".into()), ..Default::default() };
    let resolved = resolve(None, &flags, &pairs).expect("complete");
    let database = resolved.config.fallback.as_ref().expect("fallback");
    assert_eq!((database.host[0].tcp(), database.user.as_deref()), (Some("own"), Some("flag")));
    assert_eq!(
        (resolved.config.settings.listen_port.first(), source(&resolved, "listen_port")),
        (7001, "from --listen-port")
    );
    assert_eq!(resolved.config.settings.pool_mode, PoolMode::Session);
    assert_eq!(
        resolved.warnings[0].message,
        "RDS_HOST and IAMBOUNCER_DB_HOST differ; IAMBOUNCER_DB_HOST is used"
    );
    let typed = resolve(Some("typed:5999"), &flags, &[("DB_PORT", "1")]).expect("complete");
    let database = typed.config.fallback.as_ref().expect("fallback");
    assert_eq!((database.host[0].tcp(), database.port), (Some("typed"), 5999));
}

#[test]
fn missing_values_are_listed_with_their_sources() {
    let found = resolve(None, &ZeroConfigFlags::default(), &[]).expect_err("nothing there");
    assert_eq!(found.len(), 2);
    for name in ["RDS_HOST", "DB_HOST", "PGHOST"] {
        assert!(found[0].message.contains(name), "{found:?}");
    }
    assert!(found[1].message.contains("--user") && found[1].message.contains("DB_USERNAME"));
}

#[test]
fn endpoints_have_several_forms() {
    let parse = |text: &str| parse_endpoint(text).map(|(host, port)| (host.to_string(), port));
    assert_eq!(parse("db"), Ok(("db".to_owned(), None)));
    assert_eq!(parse("db:5433"), Ok(("db".to_owned(), Some(5433))));
    assert_eq!(parse("2001:db8::1"), Ok(("2001:db8::1".to_owned(), None)));
    assert_eq!(parse("[::1]:5433"), Ok(("::1".to_owned(), Some(5433))));
    for bad in ["", "postgres://db", "db:0", "db:x", "[::1", "[::1]x", "a b", "user@db", "a:b:c", ":5432"] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn contradictory_and_unsafe_settings_are_refused() {
    let flags = ZeroConfigFlags { user: Some("u".into()), port: Some(1), ..Default::default() };
    assert!(resolve(Some("db:2"), &flags, &[]).is_err());
    let own = resolve(Some("localhost:6432"), &ZeroConfigFlags { port: None, ..flags.clone() }, &[]);
    let own = own.expect_err("own listener");
    assert!(own.len() == 1 && own[0].message.contains("own listener"), "{own:?}");
    let weak =
        resolve(Some("db"), &flags, &[("IAMBOUNCER_SERVER_TLS_SSLMODE", "require")]).expect_err("weak TLS");
    assert!(weak[0].message.contains("host name was verified"));
    let typo = resolve(Some("db"), &flags, &[("IAMBOUNCER_DB_NAM", "x")]).expect_err("unknown variable");
    assert_eq!(typo[0].help.as_deref(), Some("did you mean IAMBOUNCER_DB_NAME?"));
}

#[test]
fn open_access_is_reported() {
    let resolved =
        from_variables(&[("DB_HOST", "db"), ("DB_USER", "u"), ("IAMBOUNCER_LISTEN_ADDR", "0.0.0.0")]);
    assert!(resolved.warnings[0].message.contains("any client that reaches the port"));
    let unused = from_variables(&[("DB_HOST", "db"), ("DB_USER", "u"), ("DB_PASSWORD", "x")]);
    assert_eq!(unused.warnings[0].message, "DB_PASSWORD is set but not used: the pooler logs in by IAM");
}

#[test]
fn a_secret_replaces_iam_and_excludes_it() {
    let arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/app-a1B2c3";
    let resolved = from_variables(&[("DB_HOST", ENDPOINT), ("DB_SECRET_ARN", arn)]);
    let line = resolved.config.database_for("anything").expect("fallback");
    assert_eq!((line.server_auth, line.user.as_deref()), (ServerAuth::Password, Some("prod/app")));
    assert_eq!(source(&resolved, "secret_arn"), "from DB_SECRET_ARN");
    for iam in [("AWS_IAM", "true"), ("IAMBOUNCER_SERVER_AUTH", "iam")] {
        let pairs = [("DB_HOST", ENDPOINT), ("DB_SECRET_ARN", arn), iam];
        let found = resolve(None, &ZeroConfigFlags::default(), &pairs).expect_err("both");
        assert!(found.iter().any(|found| found.message.contains("exclude each other")), "{found:?}");
    }
    let wrong = [("DB_HOST", ENDPOINT), ("DB_SECRET_ARN", "prod/app"), ("DB_USER", "app")];
    let found = resolve(None, &ZeroConfigFlags::default(), &wrong).expect_err("no ARN");
    assert!(
        found[0]
            .message
            .starts_with("secret_arn \"prod/app\" (from DB_SECRET_ARN) is not the ARN of a secret"),
        "{found:?}"
    );
}
