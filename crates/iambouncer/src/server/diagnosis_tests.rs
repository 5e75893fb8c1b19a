//! Which cause is chosen for a failed login, and how it is reported.

use super::*;

const HOST: &str = "db.c1.eu-west-1.rds.amazonaws.com";

fn signed() -> TokenDetail {
    TokenDetail {
        host: HOST.to_owned(),
        port: 5432,
        region: "eu-west-1".to_owned(),
        user: "app".to_owned(),
        access_key_id: "AKIDEXAMPLE".to_owned(),
        expires_at_seconds: NOW + 600,
        dialed_host: HOST.to_owned(),
        dialed_port: 5432,
        ..TokenDetail::default()
    }
}

const NOW: i64 = 1_705_322_096;

fn line_of(proof: &Proof) -> LineSummary {
    LineSummary { uses_iam: matches!(proof, Proof::Token(_)), ..LineSummary::default() }
}

fn with(code: &str, message: &str, proof: &Proof) -> Diagnosis {
    let message = message.to_owned();
    let error = LoginError::Refused { severity: "FATAL".into(), code: code.into(), message, hint: None };
    Diagnosis::new(error, proof, line_of(proof), NOW)
}

fn refused(code: &str, signed: Option<&TokenDetail>) -> Diagnosis {
    let proof = signed.map_or(Proof::Password, |signed| Proof::Token(Box::new(signed.clone())));
    let message = if code == "28000" { "PAM authentication failed for user \"app\"" } else { "no" };
    with(code, message, &proof)
}

fn failure_of(change: impl FnOnce(&mut TokenDetail)) -> LoginFailure {
    let mut signed = signed();
    change(&mut signed);
    refused("28000", Some(&signed)).cause
}

#[test]
fn provable_causes_precede_the_policy() {
    assert_eq!(failure_of(|s| s.expires_at_seconds = NOW), LoginFailure::CredentialsEnding);
    assert_eq!(failure_of(|s| s.clock_skew_seconds = Some(-3600)), LoginFailure::ClockSkew);
    assert_eq!(failure_of(|s| s.host = "db.internal".into()), LoginFailure::SignedHost);
    assert_eq!(failure_of(|s| s.region = "eu-central-1".into()), LoginFailure::WrongRegion);
    assert_eq!(failure_of(|s| s.dialed_host = HOST.replace("db.", "other.")), LoginFailure::SignedHost);
    assert_eq!(failure_of(|s| s.dialed_port = 5433), LoginFailure::SignedPort);
    assert_eq!(failure_of(|s| s.logins_last_second = 200), LoginFailure::Throttled);
    assert_eq!(
        failure_of(|s| s.host = "p.proxy-c1.eu-west-1.rds.amazonaws.com".into()),
        LoginFailure::SignedHost
    );
    let proxy = "p.proxy-c1.eu-west-1.rds.amazonaws.com";
    assert_eq!(
        failure_of(|s| (s.host, s.dialed_host) = (proxy.into(), proxy.into())),
        LoginFailure::RdsProxy
    );
    assert_eq!(failure_of(|_| {}), LoginFailure::NotAuthorized);
    let tunnel = |s: &mut TokenDetail| (s.dialed_host, s.dialed_port) = ("localhost".into(), 15432);
    assert_eq!(failure_of(tunnel), LoginFailure::NotAuthorized);
    let port_of_the_tunnel = |s: &mut TokenDetail| {
        tunnel(s);
        s.port = 15432;
    };
    assert_eq!(failure_of(port_of_the_tunnel), LoginFailure::SignedPort);
    let port_on_purpose = |s: &mut TokenDetail| {
        port_of_the_tunnel(s);
        s.is_port_given = true;
    };
    assert_eq!(failure_of(port_on_purpose), LoginFailure::NotAuthorized);
}

#[test]
fn a_policy_hint_names_the_arn_and_what_is_ruled_out() {
    let arn = "arn:aws:sts::123456789012:assumed-role/app/session".to_owned();
    let signed = TokenDetail { arn: Some(arn.clone()), clock_skew_seconds: Some(0), ..signed() };
    let hint = refused("28000", Some(&signed)).hint;
    for part in [
        &arn,
        "arn:aws:rds-db:eu-west-1:123456789012:dbuser:<resource id>/app",
        "the clock is right to 1 s",
        "[IAM003]",
    ] {
        assert!(hint.contains(part), "{part}: {hint}");
    }
}

#[test]
fn rejected_credentials_are_not_a_missing_policy() {
    let dead = TokenDetail { refused_key: Some(LoginFailure::NoCredentials), ..signed() };
    let failed = refused("28000", Some(&dead));
    assert_eq!(failed.cause, LoginFailure::NoCredentials);
    assert!(
        failed.hint.starts_with("AWS does not accept the credentials of key AKIDEXAMPLE"),
        "{}",
        failed.hint
    );
    let finding = "no AWS credentials for identity default: none".to_owned();
    let source = SourceFault { cause: LoginFailure::NoCredentials, finding, advice: None };
    let without_a_source = TokenDetail { source: Some(source), ..signed() };
    for failed in [failed, refused("28000", Some(&without_a_source))] {
        assert_eq!(failed.cause, LoginFailure::NoCredentials);
        let report = format!("{} {:?}", failed.hint, failed.to_fault());
        assert!(!report.contains("rds-db:connect") && report.contains("[IAM002]"), "{report}");
    }
    // A token signed for the wrong target is a certain cause.
    let elsewhere = TokenDetail { region: "eu-central-1".to_owned(), ..without_a_source };
    assert_eq!(refused("28000", Some(&elsewhere)).cause, LoginFailure::WrongRegion);
}

#[test]
fn a_token_treated_as_a_password_differs_from_a_wrong_password() {
    assert_eq!(refused("28P01", Some(&signed())).cause, LoginFailure::NotRdsIam);
    assert_eq!(refused("28P01", None).cause, LoginFailure::Password);
    assert_eq!(refused("57014", Some(&signed())).cause, LoginFailure::Throttled);
    assert_eq!(refused("3D000", None).cause, LoginFailure::NoSuchDatabase);
}

#[test]
fn a_stored_token_is_reported_with_its_age() {
    let token = format!(
        "{HOST}:5432/?Action=connect&X-Amz-Credential=A&X-Amz-Date=20240115T123456Z&X-Amz-Expires=900\
         &X-Amz-Signature={}",
        "0".repeat(64)
    );
    let stored = |text: &str| Proof::StoredToken(StoredToken::read(text).unwrap());
    let failed = with("28000", "PAM authentication failed", &stored(&token));
    assert_eq!(failed.cause, LoginFailure::StaticToken);
    let error = failed.error;
    let later = Diagnosis::new(error, &stored(&token), LineSummary::default(), NOW + 900 + 43 * 60);
    assert!(later.hint.contains("expired 43 min ago"), "{}", later.hint);
    let long = token.replace("Expires=900", "Expires=3600");
    assert_eq!(with("28000", "PAM authentication failed", &stored(&long)).cause, LoginFailure::TokenLife);
    for extreme in ["-9223372036854775808", "9223372036854775807", "-1"] {
        let extreme = token.replace("Expires=900", &format!("Expires={extreme}"));
        assert!(
            StoredToken::read(&extreme).is_some_and(|token| token.diagnose(NOW).1.is_some()),
            "{extreme}"
        );
    }
    let cut = &token[..token.len() - 1];
    assert_eq!(with("28000", "PAM authentication failed", &stored(cut)).cause, LoginFailure::BrokenToken);
    for other in ["secret", "a?b", "", "x/?X-Amz-Date=yesterday"] {
        assert_eq!(StoredToken::read(other), None);
    }
}

#[test]
fn the_message_reveals_encryption_and_inherited_grants() {
    let rejects =
        "pg_hba.conf rejects connection for host \"10.0.0.1\", user \"app\", database \"app\", no encryption";
    assert_eq!(with("28000", rejects, &Proof::None).cause, LoginFailure::TlsOff);
    assert_eq!(
        with("28000", &rejects.replace("no encryption", "SSL off"), &Proof::None).cause,
        LoginFailure::TlsOff
    );
    assert_eq!(refused("28000", None).cause, LoginFailure::InheritedGrant);
}
#[test]
fn hints_of_lines_without_iam_do_not_mention_it() {
    let host = "db.example".to_owned();
    let errors = [
        LoginError::NoTls,
        LoginError::TlsOff,
        LoginError::NoPassword("app".to_owned()),
        LoginError::Resolve { host: host.clone(), reason: "no such host".to_owned() },
        LoginError::Connect { target: host.clone(), reason: "x".to_owned(), kind: ErrorKind::TimedOut },
        LoginError::Tls {
            target: host,
            reason: "x".to_owned(),
            trouble: TlsFailureKind::WrongName,
            remedy: Some("Make another one.".to_owned()),
        },
    ];
    for error in errors {
        let failed = Diagnosis::new(error, &Proof::None, LineSummary::default(), NOW);
        for word in ["rds", "RDS", "iam_", "server_auth", "token"] {
            assert!(!failed.hint.contains(word), "{word}: {failed:?}");
        }
    }
}

#[test]
fn refused_timed_out_and_unresolvable_are_three_causes() {
    let connect = |kind| LoginError::Connect { target: "h".to_owned(), reason: "x".to_owned(), kind };
    let unknown = LoginError::Resolve { host: "h".to_owned(), reason: "no such host".to_owned() };
    let errors = [connect(ErrorKind::ConnectionRefused), connect(ErrorKind::TimedOut), unknown];
    let failed = errors.map(|error| Diagnosis::new(error, &Proof::None, LineSummary::default(), NOW));
    let causes: std::collections::HashSet<_> = failed.iter().map(|failed| failed.cause).collect();
    let hints: std::collections::HashSet<_> = failed.iter().map(|failed| &failed.hint).collect();
    assert_eq!((causes.len(), hints.len()), (3, 3), "{failed:?}");
}

#[test]
fn a_client_of_the_fallback_line_receives_the_servers_message() {
    let refused = |code: &str, line| {
        let (severity, message) = ("FATAL".to_owned(), "database \"x\" does not exist".to_owned());
        let error = LoginError::Refused { severity, code: code.to_owned(), message, hint: None };
        Diagnosis::new(error, &Proof::None, line, NOW).to_fault()
    };
    let fault = refused("3D000", LineSummary { is_fallback: true, ..LineSummary::default() });
    assert_eq!((fault.code.as_ref(), fault.message.as_ref()), ("3D000", "database \"x\" does not exist"));
    assert_eq!(fault.hint, None);
    assert!(refused("3D000", LineSummary::default()).hint.is_some_and(|hint| hint.contains("dbname=")));
}

#[test]
fn an_error_for_a_client_is_short() {
    let reason = format!("no answer{}", ": the SDK's chain of errors".repeat(30));
    let error = LoginError::Token {
        user: "app".to_owned(),
        reason: reason.clone(),
        cause: LoginFailure::MetadataUnreachable,
        advice: None,
        is_transient: true,
    };
    let failed = Diagnosis::new(error, &Proof::None, LineSummary::of_iam(), NOW);
    let fault = failed.to_fault();
    assert!(
        fault.message.len() <= MAX_CLIENT_MESSAGE_BYTES
            && fault.message.contains(": no answer")
            && !fault.message.contains(&reason),
        "{fault:?}"
    );
    assert!(failed.error.to_string().contains(&reason));
    assert!(fault.hint.is_some_and(|hint| hint.ends_with("[IAM015]")));
    let policy = refused("28000", Some(&signed()));
    let hint = policy.to_fault().hint.unwrap();
    assert!(hint.len() < 220 && hint.contains("rds-db:connect") && hint.ends_with("[IAM003]"), "{hint}");
    assert!(policy.hint.contains("What is known"));
}
