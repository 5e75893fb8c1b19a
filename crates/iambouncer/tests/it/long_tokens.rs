//! Tokens up to 64 KiB, PostgreSQL's limit: STS sets no limit on the session token they contain. Tokens of
//! exactly this length are accepted in both directions; a longer one is reported and never sent.

use crate::support::postgres;
use crate::support::sim::{RDS_HOST, REGION, Sim};
use crate::support::tls_client::{ClientSide, TlsClient};
use rds_iam::{Credentials, MAX_TOKEN_BYTES, TokenRequest, sign};
use rds_sim::{AccessKey, LoginOutcome};
use std::time::{Duration, SystemTime};
use wire::limits::MAX_PASSWORD_BYTES;

/// The shortest session token that the simulator generates, in bytes.
const SHORTEST_BYTES: usize = 16;

/// A token of this key for the simulator.
fn token(sim: &Sim, key: &AccessKey) -> String {
    let region = REGION.parse().unwrap();
    let request = TokenRequest { host: RDS_HOST, port: sim.port(), user: "app", region: &region };
    let session_token = key.session_token.as_ref().map(|token| token.to_string());
    let credentials =
        Credentials::new(&key.access_key_id, key.secret.as_str(), session_token, key.ends_at, "tests");
    sign(&request, &credentials, SystemTime::now()).unwrap().expose().to_owned()
}

/// A key with a session token of this length.
fn key(sim: &Sim, session_token_bytes: usize) -> AccessKey {
    sim.simulator.keys().issue(SystemTime::now(), Duration::from_secs(3600), session_token_bytes)
}

/// Length in bytes of the session token that results in the longest token.
fn longest_session_token(sim: &Sim) -> usize {
    SHORTEST_BYTES + MAX_TOKEN_BYTES - token(sim, &key(sim, SHORTEST_BYTES)).len()
}

#[test]
fn session_tokens_that_fit_into_a_password_message_are_accepted() {
    let mut sim = Sim::in_front_of(postgres());
    for bytes in [56_000, longest_session_token(&sim)] {
        sim.use_session_token(bytes);
        let bouncer = sim.pooler(&["default_pool_size = 2"]);
        let mut clients = [bouncer.client(), bouncer.client()];
        for client in &mut clients {
            client.query("BEGIN");
            assert_eq!(client.value("SELECT current_user"), "app", "{bytes} bytes");
        }
        assert_eq!(sim.simulator.log().accepted_and_refused(), (2, 0), "{bytes} bytes");
        sim.simulator.log().clear();
    }
}

#[test]
fn a_token_too_long_for_a_password_message_is_reported_and_not_sent() {
    let mut sim = Sim::in_front_of(postgres());
    let bytes = longest_session_token(&sim) + 1;
    sim.use_session_token(bytes);
    let bouncer = sim.pooler(&["query_wait_timeout = 2"]);
    let (code, text, hint) = bouncer.refused_login("app", "app");
    assert_eq!(code, "28000", "{text}");
    let (bytes, limit) = (MAX_TOKEN_BYTES + 1, MAX_TOKEN_BYTES);
    let reason = format!(
        "the token could not be signed: the token would be {bytes} bytes long; PostgreSQL takes at most {limit}"
    );
    assert_eq!(text, format!("no IAM token for user \"app\": {reason}"));
    assert!(hint.contains("use fewer session tags or policies") && hint.ends_with("[IAM010]"), "{hint}");
    assert_eq!(bouncer.show("TOKENS", "last_error"), [reason]);
    assert!(!bouncer.log().contains(&sim.environment()[2].1[..32]));
    // A connection may have been made, but no password was sent.
    let attempts = sim.simulator.log().attempts();
    assert!(attempts.iter().all(|attempt| attempt.outcome == LoginOutcome::NoPassword), "{attempts:?}");
}

#[test]
fn a_client_may_send_a_token_of_full_length() {
    let sim = Sim::in_front_of(postgres());
    let side = ClientSide::new();
    let line = sim.database();
    let bouncer = side.set(sim.start(&line), "require").set("auth_type = iam").start();
    for bytes in [60_000, longest_session_token(&sim)] {
        let key = key(&sim, bytes);
        let token = token(&sim, &key);
        assert!(token.len() > bytes);
        let client = TlsClient::log_in_with(bouncer.port, side.config(), "app", "app", &token);
        assert_eq!(client.map_err(|refused| panic!("{refused:?}")).unwrap().value("SELECT 1"), "1");
        let accepted = sim.simulator.log().attempts().into_iter().any(|attempt| {
            matches!(attempt.outcome, LoginOutcome::Accepted { access_key_id, .. } if access_key_id == key.access_key_id)
        });
        assert!(accepted, "the database has verified it");
    }
}

#[test]
fn a_longer_password_of_a_client_is_not_read_and_does_not_affect_other_clients() {
    let sim = Sim::in_front_of(postgres());
    let side = ClientSide::new();
    let line = sim.database();
    let bouncer = side.set(sim.start(&line), "require").set("auth_type = iam").start();
    let mut client = TlsClient::connect(bouncer.port, side.config()).unwrap();
    let mut packet = Vec::new();
    let parameters = [("user", "app"), ("database", "app")];
    wire::encode::startup(&mut packet, wire::startup::Version::V3_0, &parameters);
    client.send(&packet).unwrap();
    assert_eq!(client.read().unwrap().tag, b'R');
    packet.clear();
    wire::encode::password(&mut packet, &"x".repeat(MAX_PASSWORD_BYTES));
    // The length alone is sufficient.
    client.send(&packet[..5]).unwrap();
    let (code, text) = client.read().unwrap().explained();
    assert_eq!(code, "08P01");
    assert!(text.contains(&format!("larger than the limit of {MAX_PASSWORD_BYTES}")), "{text}");
    assert_eq!(sim.simulator.log().attempts(), []);
    let token = token(&sim, &key(&sim, SHORTEST_BYTES));
    assert!(TlsClient::log_in_with(bouncer.port, side.config(), "app", "app", &token).is_ok());
}
