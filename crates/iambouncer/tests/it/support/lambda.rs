//! The environment of a Lambda function: a pooler whose clients authenticate with RDS tokens, host names that
//! resolve to it, and the function's credentials. Owns pooler, simulator and programs.

use super::drivers::{Language, Programs};
use super::program::ProgramOutput;
use super::raw::Client;
use super::sim::{KEY_ID, RDS_HOST, REGION, Sim};
use super::tls_client::ClientSide;
use super::{Bouncer, postgres};
use rds_sim::{AccessKey, DnsEntry, DnsServer, LoginOutcome};
use serde_json::Value;
use std::net::TcpListener;
use std::sync::Once;
use std::time::Duration;

/// The pooler's host name if it does not use the endpoint's.
const POOLER_HOST: &str = "pooler.internal";
/// A second address, so that the pooler can use the simulator's port.
const OWN_ADDRESS: &str = "127.0.0.2";
const SESSION_TOKEN_BYTES: usize = 900;
const MAX_TRIES: usize = 20;

/// A function and the services it calls.
pub struct LambdaSetup {
    pub sim: Sim,
    pub bouncer: Bouncer,
    side: ClientSide,
    programs: Programs,
    key: AccessKey,
    /// Environment variables of the function besides its credentials.
    addresses: Vec<(&'static str, String)>,
    /// Resolves the endpoint for the pooler, whatever the function's /etc/hosts contains.
    _dns: DnsServer,
}

impl LambdaSetup {
    /// The endpoint's name resolves to the pooler, which uses the endpoint's port: the function needs one
    /// name.
    pub fn with_the_endpoints_name() -> Self {
        let sim = sim_whose_port_is_free_at_own_address();
        let port = sim.port();
        let settings = [format!("listen_addr = {OWN_ADDRESS}"), format!("listen_port = {port}")];
        let addresses = [("PROXY_HOST", RDS_HOST.to_owned()), ("PROXY_PORT", port.to_string())];
        Self::start(sim, &settings, &[(RDS_HOST, OWN_ADDRESS)], |_| addresses.to_vec())
    }

    /// The pooler has its own name and port: the function needs both names.
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
        addresses: impl FnOnce(&Bouncer) -> Vec<(&'static str, String)>,
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
        let addresses = addresses(&bouncer);
        Self { sim, side, programs: Programs::with_hosts(names), key, addresses, bouncer, _dns: dns }
    }

    /// Calls the function for each of these events, in one process.
    pub fn invoke(&self, language: Language, events: &[Value]) -> ProgramOutput {
        self.invoke_as(&self.key, language, events)
    }

    /// Calls the function with these credentials.
    pub fn invoke_as(&self, key: &AccessKey, language: Language, events: &[Value]) -> ProgramOutput {
        let events: Vec<String> = events.iter().map(Value::to_string).collect();
        let events: Vec<&str> = events.iter().map(String::as_str).collect();
        self.programs.run(language, "invoke", &events, &self.environment(key))
    }

    /// The function's key with a wrong secret.
    pub fn forged_key(&self) -> AccessKey {
        AccessKey { secret: "another/secret".to_owned().into(), ..self.key.clone() }
    }

    /// The owners of the tokens that the database accepted, in order: the function or the pooler.
    pub fn accepted(&self) -> Vec<&'static str> {
        let attempts = self.sim.simulator.log().attempts().into_iter();
        let keys = attempts.filter_map(|attempt| match attempt.outcome {
            LoginOutcome::Accepted { access_key_id, .. } => Some(access_key_id),
            _ => None,
        });
        let name = |key: String| match key.as_str() {
            KEY_ID => "pooler",
            key if key == self.key.access_key_id => "function",
            _ => "unknown",
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
        let all = credentials.into_iter().chain(self.addresses.iter().cloned());
        all.map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// Tokens are signed for a name and a port, so the pooler must use the simulator's port.
fn sim_whose_port_is_free_at_own_address() -> Sim {
    let mut sims = (0..MAX_TRIES).map(|_| Sim::in_front_of(postgres()));
    let is_free = |sim: &Sim| TcpListener::bind((OWN_ADDRESS, sim.port())).is_ok();
    sims.find(is_free).expect("a port that is free at both addresses")
}

/// The table that all functions write to; each test uses its own items.
fn make_table() {
    static MADE: Once = Once::new();
    MADE.call_once(|| {
        let mut client = Client::log_in(postgres().port(), "app", "app");
        client.query("CREATE TABLE orders (item text, quantity int)");
    });
}
