//! IAM from end to end: the pooler's own tokens at a simulator that verifies them as RDS does, what a client
//! receives when one is refused, and which servers never receive a token.

use crate::support::pam::{PamPostgres, TOKEN_PORT};
use crate::support::sim::{KEY_ID, RDS_HOST, REGION, SECRET, Sim};
use crate::support::{Bouncer, Client, bouncer::Start, eventually, postgres};
use rds_sim::postgres::PostgresOptions;
use rds_sim::{AccessKey, CredentialServer, CredentialSettings, LoginOutcome};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread::JoinHandle;
use std::time::Duration;

/// Refusals are cached briefly; after that the next client is accepted.
fn wait_until_accepted(bouncer: &Bouncer) {
    eventually("the client logs in", || {
        let mut client = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
        client.read().is_some_and(|message| message.tag == b'R')
    });
}

/// Waits until the pooler's next token will have a later signing time than all before.
fn wait_for_another_second(sim: &Sim) {
    let last = sim.signed_at().into_iter().max().unwrap_or(0);
    eventually("the clock advances", || sim.now() > last);
}

#[test]
fn a_region_or_an_endpoint_name_is_sufficient_configuration() {
    let sim = Sim::in_front_of(postgres());
    for how in [format!("iam_region={REGION}"), format!("iam_host={RDS_HOST}")] {
        let line = format!("app = host=localhost port={} dbname=app server_auth=iam {how}", sim.port());
        let bouncer = sim.start(&line).start();
        let mut client = bouncer.client();
        assert_eq!(client.value("SELECT current_user"), "app", "{how}");
        assert!(bouncer.show("SERVERS", "tls")[0].starts_with("TLSv1.3"), "{how}");
    }
    assert_eq!(sim.simulator.log().accepted_and_refused(), (2, 0));
}

#[test]
fn session_tokens_of_any_length_are_accepted() {
    for bytes in [700, 4096, 40_000] {
        let mut sim = Sim::in_front_of(postgres());
        let session_token = sim.use_session_token(bytes);
        assert_eq!(session_token.len(), bytes);
        let bouncer = sim.pooler(&[]);
        assert_eq!(bouncer.client().value("SELECT 1"), "1", "{bytes} bytes");
        assert_eq!(sim.simulator.log().accepted_and_refused(), (1, 0), "{bytes} bytes");
    }
}

#[test]
fn one_token_serves_many_logins() {
    let sim = Sim::in_front_of(postgres());
    let bouncer = sim.pooler(&[]);
    let mut client = bouncer.client();
    let mut console = bouncer.console();
    // A token signed in another second would differ, if each login signed one.
    let first = sim.now();
    eventually("logins in three seconds", || {
        console.query("RECONNECT app");
        client.value("SELECT 1");
        sim.now() > first + 2
    });
    let signed_at = sim.signed_at();
    assert!(signed_at.len() >= 3, "{signed_at:?}");
    assert!(signed_at.iter().all(|at| *at == signed_at[0]), "{signed_at:?}");
}

#[test]
fn when_a_token_expires_sessions_continue_and_new_logins_use_a_fresh_one() {
    let sim = Sim::in_front_of(postgres());
    let bouncer = sim.pooler(&["default_pool_size = 2"]);
    let mut old = bouncer.client();
    old.query("BEGIN");
    let pid = old.value("SELECT pg_backend_pid()");
    let old_token = sim.signed_at()[0];
    sim.simulator.faults().set(|faults| faults.expire_signed_until = Some(old_token));
    wait_for_another_second(&sim);
    let mut new = bouncer.client();
    assert_ne!(new.value("SELECT pg_backend_pid()"), pid);
    assert_eq!(old.value("SELECT pg_backend_pid()"), pid);
    old.query("COMMIT");
    let refusals = sim.refusals();
    assert!(refusals.len() == 1 && refusals[0].starts_with("expired"), "{refusals:?}");
    let signed_at = sim.signed_at();
    assert!(signed_at.len() == 2 && signed_at[1] > old_token, "{signed_at:?}");
    assert!(!bouncer.log().contains("ERROR"), "{}", bouncer.log());
}

#[test]
fn a_wrong_clock_stops_new_logins_only_until_it_is_corrected() {
    let sim = Sim::in_front_of(postgres());
    let bouncer = sim.pooler(&["default_pool_size = 2"]);
    let mut old = bouncer.client();
    old.query("BEGIN");
    let pid = old.value("SELECT pg_backend_pid()");
    sim.simulator.clock().advance(3600);
    let mut new = bouncer.client();
    new.send_query("SELECT 'served'");
    eventually("a login is refused", || sim.refusals().len() >= 2);
    assert!(sim.refusals().iter().all(|reason| reason.starts_with("expired")), "{:?}", sim.refusals());
    assert_eq!(old.value("SELECT pg_backend_pid()"), pid);
    sim.simulator.clock().advance(-3600);
    // The one that waits is served, or receives the reason: that depends on when the refusal was known.
    eventually("new logins work again", || {
        let answer = bouncer.client().query("SELECT 'served'");
        answer.iter().any(|message| message.tag == b'D' && message.row() == [Some("served".to_owned())])
    });
    assert_eq!(old.value("SELECT pg_backend_pid()"), pid);
}

#[test]
fn the_server_of_a_role_that_is_not_an_iam_user_never_receives_a_token() {
    let hba = "local all postgres trust\nlocal all legacy md5\nlocal all all scram-sha-256\n";
    let server =
        crate::support::postgres::start(PostgresOptions { hba: Some(hba.to_owned()), ..Default::default() });
    let roles = "CREATE ROLE app LOGIN PASSWORD 'secret'; SET password_encryption = 'md5'; \
                 CREATE ROLE legacy LOGIN PASSWORD 'secret'";
    server.sql(roles).unwrap();
    let sim = Sim::for_users(&server, RDS_HOST, REGION, &["other_user"]);
    let line =
        format!("* = host=localhost port={} dbname=postgres server_auth=iam iam_region={REGION}", sim.port());
    let bouncer = sim.start(&line).set("auth_type = trust").users("\"app\" \"\"\n\"legacy\" \"\"\n").start();
    for (user, asked) in [("app", "SCRAM"), ("legacy", "an md5 password")] {
        let (code, text, hint) = bouncer.refused_login(user, "app");
        assert_eq!(code, "28000");
        assert_eq!(text, format!("server asks user \"{user}\" for {asked}, not for an IAM token"));
        assert!(
            hint.contains(&format!("GRANT rds_iam TO \"{user}\"")) && hint.ends_with("[IAM004]"),
            "{hint}"
        );
    }
    let outcomes: Vec<_> =
        sim.simulator.log().attempts().into_iter().map(|attempt| attempt.outcome).collect();
    assert!(outcomes.iter().all(|outcome| *outcome == LoginOutcome::PassedOn), "{outcomes:?}");
    assert!(!server.log().contains("X-Amz"));
}

/// A server without TLS that records everything it receives.
fn server_without_tls() -> (u16, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut sent = vec![0; 8];
        stream.read_exact(&mut sent).unwrap();
        stream.write_all(b"N").unwrap();
        // The client should only close the connection.
        let _ = stream.read_to_end(&mut sent);
        sent
    });
    (port, served)
}

#[test]
fn a_server_without_tls_receives_eight_bytes_and_no_token() {
    let sim = Sim::in_front_of(postgres());
    let (port, served) = server_without_tls();
    let line = format!("app = host=127.0.0.1 port={port} server_auth=iam iam_host={RDS_HOST}");
    let bouncer = sim.start(&line).start();
    let (code, text, _) = bouncer.refused_login("app", "app");
    assert_eq!(code, "08004");
    assert!(text.contains("does not support TLS"), "{text}");
    let mut request = Vec::new();
    wire::encode::ssl_request(&mut request);
    assert_eq!(served.join().unwrap(), request);
    assert_eq!(bouncer.show("SERVERS", "state").len(), 0);
}

#[test]
fn a_server_with_an_untrusted_certificate_receives_no_token() {
    let sim = Sim::in_front_of(postgres());
    let stranger = Sim::in_front_of(postgres());
    let line = format!("app = host=localhost port={} server_auth=iam iam_host={RDS_HOST}", stranger.port());
    let bouncer = sim.start(&line).start();
    let (code, text, _) = bouncer.refused_login("app", "app");
    assert_eq!(code, "08004");
    assert!(
        text.contains(&format!("TLS to {RDS_HOST} (127.0.0.1:")) && text.contains("certificate"),
        "{text}"
    );
    assert_eq!(stranger.simulator.log().attempts(), []);
}

#[test]
fn throttled_logins_succeed_in_time() {
    let sim = Sim::in_front_of(postgres());
    let bouncer = sim.pooler(&["default_pool_size = 4"]);
    let mut clients: Vec<_> = (0..4).map(|_| bouncer.client()).collect();
    sim.simulator.faults().set(|faults| faults.max_logins_per_second = Some(1));
    for client in &mut clients {
        client.send_query("SELECT 'served' FROM pg_sleep(0.2)");
    }
    for client in &mut clients {
        assert_eq!(client.until_ready()[1].row(), [Some("served".to_owned())]);
    }
}

#[test]
fn logins_succeed_despite_late_answers_and_dropped_connections() {
    let sim = Sim::in_front_of(postgres());
    let bouncer = sim.pooler(&["server_connect_timeout = 2"]);
    sim.simulator.faults().set(|faults| {
        faults.login_delay = Duration::from_millis(300);
        faults.drop_next = 2;
    });
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
    sim.simulator.faults().clear();
}

#[test]
fn a_server_that_never_answers_is_named_at_the_timeout() {
    let sim = Sim::in_front_of(postgres());
    let bouncer = sim.pooler(&["server_connect_timeout = 1", "query_wait_timeout = 2"]);
    sim.simulator.faults().set(|faults| faults.login_delay = Duration::from_secs(30));
    let (code, text, _) = bouncer.refused_login("app", "app");
    assert_eq!(code, "08001");
    assert!(text.contains("server_connect_timeout") && text.contains("localhost"), "{text}");
    eventually("no server is left", || bouncer.show("SERVERS", "state").is_empty());
}

#[test]
fn a_failover_aborts_the_running_transaction_only() {
    let sim = Sim::in_front_of(postgres());
    let bouncer = sim.pooler(&["default_pool_size = 2"]);
    let mut busy = bouncer.client();
    let mut idle = bouncer.client();
    busy.query("BEGIN");
    idle.value("SELECT 1");
    sim.simulator.faults().cut_now();
    let end = busy.until_end();
    assert_eq!(end[0].error().0, "08006");
    // The closed connection is noticed although no client uses it.
    bouncer.wait_for_servers(0);
    assert_eq!(idle.value("SELECT 'goes on'"), "goes on");
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
}

#[test]
fn a_connection_cut_inside_a_result_disconnects_its_client_only() {
    let sim = Sim::in_front_of(postgres());
    let bouncer = sim.pooler(&["default_pool_size = 2"]);
    let mut other = bouncer.client();
    other.query("BEGIN");
    sim.simulator.faults().set(|faults| faults.cut_after_bytes = Some(20_000));
    let mut cut = bouncer.client();
    cut.send_query("SELECT i FROM generate_series(1, 100000) i");
    // The cut may be inside a message, where no ErrorResponse can follow, so the test checks the end of the connection.
    let mut received = Vec::new();
    cut.stream.read_to_end(&mut received).unwrap();
    assert!(received.len() < 50_000, "{} bytes", received.len());
    bouncer.wait_for_servers(1);
    sim.simulator.faults().clear();
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
    assert_eq!(other.value("SELECT 'undisturbed'"), "undisturbed");
}

#[test]
fn the_client_receives_an_error_if_there_are_no_aws_credentials() {
    let sim = Sim::in_front_of(postgres());
    let line = sim.database();
    let bouncer = sim.keyless(&line).set("query_wait_timeout = 3").start();
    let (code, text, hint) = bouncer.refused_login("app", "app");
    assert_eq!(code, "28000");
    assert!(text.starts_with("no IAM token for user \"app\": no AWS credentials"), "{text}");
    // Only the hint mentions it.
    assert!(hint.contains("AWS_ACCESS_KEY_ID") && !text.contains("AWS_ACCESS_KEY_ID"), "{text} / {hint}");
    assert_eq!(bouncer.show("SERVERS", "state").len(), 0);
    assert_eq!(sim.simulator.log().attempts(), []);
}

/// The environment through which a pooler on an instance finds its credentials.
fn instance(endpoint: &CredentialServer) -> Vec<(&'static str, String)> {
    let mut variables = endpoint.imds_environment();
    variables.push(("AWS_EC2_METADATA_DISABLED", "false".to_owned()));
    variables
}

#[test]
fn credentials_of_instance_task_and_pod_are_used() {
    let sim = Sim::in_front_of(postgres());
    let endpoint = sim.credentials(CredentialSettings::default());
    let authorization = sim.dir().join("authorization");
    std::fs::write(&authorization, CredentialSettings::default().authorization).unwrap();
    let service_account = sim.dir().join("service-account");
    std::fs::write(&service_account, "a token of the cluster").unwrap();
    let task = endpoint.container_environment(&authorization);
    let pod = endpoint.web_identity_environment(&service_account);
    for variables in [instance(&endpoint), task, pod] {
        sim.simulator.log().clear();
        let line = sim.database();
        let start = sim.keyless(&line);
        let bouncer = variables.iter().fold(start, |start, (key, value)| start.env(key, value)).start();
        assert_eq!(bouncer.client().value("SELECT current_user"), "app", "{variables:?}");
        let signed_by = sim.simulator.log().attempts().remove(0).outcome;
        let LoginOutcome::Accepted { access_key_id, .. } = signed_by else { panic!("{signed_by:?}") };
        assert!(access_key_id.starts_with("ASIA"), "{variables:?}");
    }
    let calls = endpoint.calls();
    assert_eq!((calls.imds_credentials, calls.container, calls.assume_role_with_web_identity), (1, 1, 1));
}

/// The region comes from the database line, the credentials from the pooler.
#[test]
fn credentials_are_fetched_once_for_databases_in_several_regions() {
    let sim = Sim::in_front_of(postgres());
    let other = Sim::for_users(postgres(), RDS_HOST, "eu-central-1", &["app"]);
    let endpoint = sim.credentials(CredentialSettings { reissue: false, ..Default::default() });
    let lines =
        format!("{}\n{} iam_region=eu-central-1", sim.database(), other.database().replacen("app", "far", 1));
    let mut start = sim.keyless(&lines);
    for (key, value) in instance(&endpoint) {
        start = start.env(key, &value);
    }
    let both =
        std::fs::read_to_string(sim.ca_file()).unwrap() + &std::fs::read_to_string(other.ca_file()).unwrap();
    std::fs::write(sim.ca_file(), both).unwrap();
    let bouncer = start.start();
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
    // The second simulator does not have the key that the first endpoint issued.
    other.simulator.keys().add(sim.last_key());
    assert_eq!(crate::support::Client::log_in(bouncer.port, "app", "far").value("SELECT 2"), "2");
    assert_eq!(endpoint.calls().imds_credentials, 1);
}

/// Output of all SHOW commands of the console.
pub(super) fn console_output(bouncer: &Bouncer) -> String {
    let mut console = bouncer.console();
    let commands =
        iambouncer::admin::table::COMMANDS.iter().filter(|command| command.words.starts_with("SHOW"));
    commands
        .flat_map(|command| console.query(command.words))
        .map(|message| String::from_utf8_lossy(&message.bytes).into_owned())
        .collect()
}

/// Runs a pooler with trace logging through refusals and a success, then searches its output for the key's
/// secrets.
fn assert_no_secret_shown(sim: &Sim, environment: &[(String, String)]) {
    let line = sim.database();
    let start = sim.keyless(&line).env("IAMBOUNCER_LOG", "trace");
    let bouncer = environment.iter().fold(start, |start, (key, value)| start.env(key, value)).start();
    sim.simulator.faults().set(|faults| faults.refuse_next = 2);
    let (_, text, hint) = bouncer.refused_login("app", "app");
    wait_until_accepted(&bouncer);
    let key = sim.last_key();
    let session_token = key.session_token.unwrap();
    let texts = [("log", bouncer.log()), ("console", console_output(&bouncer)), ("client", text + &hint)];
    for (place, text) in texts {
        assert!(!text.is_empty(), "{place}");
        for hidden in [key.secret.as_str(), "X-Amz-Signature", "X-Amz-Security-Token", &session_token[..32]] {
            let line = text.lines().find(|line| line.contains(hidden));
            assert_eq!(line, None, "{place} shows {hidden}");
        }
    }
}

#[test]
fn neither_log_nor_console_shows_a_secret() {
    let mut sim = Sim::in_front_of(postgres());
    sim.use_session_token(4096);
    assert_no_secret_shown(&sim, &sim.environment());
    // The metadata service and STS return secrets as plain text.
    let endpoint = sim.credentials(CredentialSettings::default());
    let service_account = sim.dir().join("service-account");
    std::fs::write(&service_account, "a token of the cluster").unwrap();
    for variables in [instance(&endpoint), endpoint.web_identity_environment(&service_account)] {
        let owned: Vec<_> = variables.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        assert_no_secret_shown(&sim, &owned);
    }
}

/// The only test with PostgreSQL's real PAM support, which the simulator imitates.
#[test]
fn a_real_postgresql_with_pam_accepts_the_poolers_token() {
    let key = AccessKey::parse(&format!("{KEY_ID}:{SECRET}")).unwrap();
    let Some(twin) = PamPostgres::start(RDS_HOST, REGION, key) else {
        println!("skipped: writing /etc/pam.d requires root");
        return;
    };
    let line = format!(
        "* = host=localhost port={} dbname=postgres server_auth=iam iam_host={RDS_HOST} iam_port={TOKEN_PORT}\n\
         stranger = host=localhost port={} dbname=postgres server_auth=iam iam_host={RDS_HOST} iam_port=1",
        twin.server.port(),
        twin.server.port()
    );
    let bouncer = Start::databases(&line)
        .set("server_tls_sslmode = verify-full")
        .set(&format!("server_tls_ca_file = {}", twin.ca_file().display()))
        .env("AWS_ACCESS_KEY_ID", KEY_ID)
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
        .users("\"app\" \"\"\n\"plain\" \"\"\n\"stranger\" \"\"\n\"postgres\" \"\"\n")
        .start();
    let mut client = bouncer.client();
    assert_eq!(client.value("SELECT current_user"), "app");
    assert_eq!(client.value("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"), "t");
    let (code, text, hint) = bouncer.refused_login("stranger", "stranger");
    assert_eq!(code, "28000");
    assert_eq!(text, "PAM authentication failed for user \"stranger\"");
    assert!(hint.contains("rds-db:connect"), "{hint}");
    let (code, text, hint) = bouncer.refused_login("plain", "app");
    assert_eq!(code, "28000", "{text}");
    assert!(hint.contains("GRANT rds_iam TO \"plain\""), "{hint}");
    assert_eq!(twin.simulator.log().accepted_and_refused(), (1, 2));
}
