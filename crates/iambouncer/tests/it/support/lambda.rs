//! Where a Lambda function runs: a pooler whose clients show RDS tokens, names that lead to it, and the function's own
//! credentials. Owns pooler, simulator and programs.

use super::drivers::{Language, Programs};
use super::program::Ended;
use super::raw::Client;
use super::sim::{KEY_ID, RDS_HOST, REGION, Sim};
use super::tls_client::ClientSide;
use super::{Bouncer, postgres};
use rds_sim::{AccessKey, DnsEntry, DnsServer, LoginOutcome};
use serde_json::Value;
use std::net::TcpListener;
use std::sync::Once;
use std::time::Duration;

/// What the pooler is called where it does not have the endpoint's name.
const POOLER_HOST: &str = "pooler.internal";
/// An address beside the door's, so that both can have the same port.
const OWN_ADDRESS: &str = "127.0.0.2";
const SESSION_TOKEN_BYTES: usize = 900;
const MAX_DOORS: usize = 20;

/// A function and what it calls.
pub struct Stage {
    pub sim: Sim,
    pub bouncer: Bouncer,
    side: ClientSide,
    programs: Programs,
    key: AccessKey,
    /// What the function finds in its environment besides its credentials.
    places: Vec<(&'static str, String)>,
    /// What the pooler asks for the endpoint, whatever its name is to the function.
    _dns: DnsServer,
}

impl Stage {
    /// The endpoint's name leads to the pooler, which has the endpoint's port: the function knows one name.
    pub fn with_the_endpoints_name() -> Self {
        let sim = door_whose_port_is_free_elsewhere();
        let port = sim.port();
        let settings = [format!("listen_addr = {OWN_ADDRESS}"), format!("listen_port = {port}")];
        let places = [("PROXY_HOST", RDS_HOST.to_owned()), ("PROXY_PORT", port.to_string())];
        Self::start(sim, &settings, &[(RDS_HOST, OWN_ADDRESS)], |_| places.to_vec())
    }

    /// The pooler has a name and a port of its own: the function knows both.
    pub fn with_two_names() -> Self {
        let sim = Sim::in_front_of(postgres());
        let database = [("DB_HOST", RDS_HOST.to_owned()), ("DB_PORT", sim.port().to_string())];
        Self::start(sim, &[], &[(POOLER_HOST, "127.0.0.1")], |bouncer| {
            let pooler = [("PROXY_HOST", POOLER_HOST.to_owned()), ("PROXY_PORT", bouncer.port.to_string())];
            pooler.into_iter().chain(database).collect()
        })
    }

    fn start(
        sim: Sim,
        settings: &[String],
        names: &[(&str, &str)],
        places: impl FnOnce(&Bouncer) -> Vec<(&'static str, String)>,
    ) -> Self {
        make_table();
        let key = sim.simulator.keys().issue(
            sim.simulator.clock().now(),
            Duration::from_secs(3600),
            SESSION_TOKEN_BYTES,
        );
        let side = ClientSide::for_names(&[RDS_HOST, POOLER_HOST]);
        let dns = sim.dns();
        dns.set(RDS_HOST, DnsEntry::Addresses(vec!["127.0.0.1".parse().unwrap()]));
        let line = format!("app = host={RDS_HOST} port={} dbname=app server_auth=iam", sim.port());
        let start = side.set(sim.start(&line), "require").set("auth_type = iam");
        let start = start.set(&format!("dns_server = {}", dns.address()));
        let bouncer = settings.iter().fold(start, |start, line| start.set(line)).start();
        let places = places(&bouncer);
        Self { sim, side, programs: Programs::with_hosts(names), key, places, bouncer, _dns: dns }
    }

    /// Calls the function for each of these events, in one process.
    pub fn invoke(&self, language: Language, events: &[Value]) -> Ended {
        self.invoke_as(&self.key, language, events)
    }

    /// Calls the function with credentials of the test's own.
    pub fn invoke_as(&self, key: &AccessKey, language: Language, events: &[Value]) -> Ended {
        let events: Vec<String> = events.iter().map(Value::to_string).collect();
        let events: Vec<&str> = events.iter().map(String::as_str).collect();
        self.programs.run(language, "invoke", &events, &self.environment(key))
    }

    /// The function's key with another secret.
    pub fn forged_key(&self) -> AccessKey {
        AccessKey { secret: "another/secret".to_owned().into(), ..self.key.clone() }
    }

    /// Whose tokens the database has accepted: the function's, or the pooler's. In order.
    pub fn accepted(&self) -> Vec<&'static str> {
        let attempts = self.sim.simulator.log().attempts().into_iter();
        let keys = attempts.filter_map(|attempt| match attempt.outcome {
            LoginOutcome::Accepted { access_key_id, .. } => Some(access_key_id),
            _ => None,
        });
        let name = |key: String| match key.as_str() {
            KEY_ID => "pooler",
            key if key == self.key.access_key_id => "function",
            _ => "nobody we know",
        };
        keys.map(name).collect()
    }

    fn environment(&self, key: &AccessKey) -> Vec<(String, String)> {
        let token = key.session_token.as_ref().unwrap().to_string();
        let credentials = [
            ("AWS_ACCESS_KEY_ID", key.access_key_id.clone()),
            ("AWS_SECRET_ACCESS_KEY", key.secret.to_string()),
            ("AWS_SESSION_TOKEN", token),
            ("AWS_REGION", REGION.to_owned()),
            ("DB_USER", "app".to_owned()),
            ("DB_NAME", "app".to_owned()),
            ("DB_CA_FILE", self.side.authority_file().display().to_string()),
        ];
        let all = credentials.into_iter().chain(self.places.iter().cloned());
        all.map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// Tokens are for a name and a port, so the pooler has to have the door's.
fn door_whose_port_is_free_elsewhere() -> Sim {
    let mut doors = (0..MAX_DOORS).map(|_| Sim::in_front_of(postgres()));
    let is_free = |sim: &Sim| TcpListener::bind((OWN_ADDRESS, sim.port())).is_ok();
    doors.find(is_free).expect("a port that is free at both addresses")
}

/// What all functions write to; each test has items of its own.
fn make_table() {
    static MADE: Once = Once::new();
    MADE.call_once(|| {
        let mut client = Client::log_in(postgres().port(), "app", "app");
        client.query("CREATE TABLE orders (item text, quantity int)");
    });
}
