//! Random programs of several clients, on direct connections and through the pooler: each client receives the same
//! notifications in the same order, and the same answers.
//!
//! Longer runs: `LISTEN_ROUNDS=1000 cargo test --test it -- listen::programs`; `LISTEN_SEED` repeats a run.

use super::{code, notification, with_servers};
use crate::support::postgres;
use crate::support::random::Random;
use crate::support::raw::{self, Client};

const CLIENTS: usize = 5;
const CHANNELS: usize = 3;
const REQUESTS: usize = 120;
const DEFAULT_ROUNDS: usize = 4;

struct Twin {
    clients: [Client; 2],
    seen: [Vec<(String, String)>; 2],
    log: Vec<String>,
}

fn number_of(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// The channel of one side: both use the same server.
fn channel(side: usize, round: usize, number: usize) -> String {
    format!("{}_{round}_{number}", ["pooled", "straight"][side])
}

fn statement(random: &mut Random, count: &mut usize) -> String {
    let number = random.below(CHANNELS);
    *count += 1;
    match random.below(16) {
        0 | 1 => format!("LISTEN #{number}"),
        2 => format!("UNLISTEN #{number}"),
        3 => random.choose(&["UNLISTEN *", "DISCARD ALL", "SELECT 1", "SET work_mem = '1MB'"]).to_owned(),
        4..=6 => format!("NOTIFY #{number}, '{count}'"),
        7 => format!("SELECT pg_notify('#{number}', '{count}')"),
        8 | 9 => "BEGIN".to_owned(),
        10 | 11 => "COMMIT".to_owned(),
        12 => "ROLLBACK".to_owned(),
        13 => "SAVEPOINT s".to_owned(),
        14 => "ROLLBACK TO s".to_owned(),
        _ => "SELECT 1".to_owned(),
    }
}

impl Twin {
    fn run(&mut self, round: usize, form: usize, sql: &str) {
        self.log.push(format!("{form}: {sql}"));
        let mut codes = Vec::new();
        for side in 0..2 {
            let mut text = sql.to_owned();
            (0..CHANNELS).for_each(|n| text = text.replace(&format!("#{n}"), &channel(side, round, n)));
            let bytes = match form {
                0 => raw::query(&text),
                1 => [raw::parse("", &text), raw::bind("", "", &[]), raw::execute(), raw::sync()].concat(),
                _ => [
                    [raw::parse("", "SELECT 2"), raw::bind("", "", &[]), raw::execute()].concat(),
                    [raw::parse("", &text), raw::bind("", "", &[]), raw::execute(), raw::sync()].concat(),
                ]
                .concat(),
            };
            self.clients[side].send(&bytes);
            let messages = self.clients[side].until_ready();
            codes.push((code(&messages), messages.last().map(|ready| ready.bytes.clone())));
            self.keep(side, &messages);
        }
        assert_eq!(codes[0], codes[1], "after:\n{}", self.log.join("\n"));
    }

    fn keep(&mut self, side: usize, messages: &[raw::Message]) {
        let own = messages.iter().filter(|message| message.tag == b'A').map(notification);
        self.seen[side].extend(own.map(|(channel, payload)| {
            let name = channel.split_once('_').map(|(_, rest)| rest.to_owned()).unwrap_or_default();
            (name, payload)
        }));
    }

    /// Reads up to the last notification of the round.
    fn finish(&mut self, side: usize) {
        while self.seen[side].last().is_none_or(|(_, payload)| payload != "end of round") {
            let message =
                self.clients[side].read().unwrap_or_else(|| panic!("ended after:\n{}", self.log.join("\n")));
            self.keep(side, &[message]);
        }
    }
}

#[test]
fn random_programs_receive_what_direct_connections_receive() {
    let seed = number_of("LISTEN_SEED", u64::from(std::process::id()) + 1);
    println!("LISTEN_SEED={seed}");
    let mut random = Random(seed);
    let bouncer = with_servers(CLIENTS + 1, &["workers = 2"]);
    for round in 0..number_of("LISTEN_ROUNDS", DEFAULT_ROUNDS as u64) as usize {
        let connect = |port| Client::log_in(port, "app", "app");
        let mut twins: Vec<Twin> = (0..CLIENTS)
            .map(|_| Twin {
                clients: [connect(bouncer.port), connect(postgres().port())],
                seen: Default::default(),
                log: Vec::new(),
            })
            .collect();
        let mut count = 0;
        for _ in 0..REQUESTS {
            let at = random.below(CLIENTS);
            let sql = statement(&mut random, &mut count);
            let form = random.below(3);
            twins[at].run(round, if sql == "DISCARD ALL" { 0 } else { form }, &sql);
            if random.one_in(20) {
                // Long enough for clients to share.
                twins[at].run(round, 0, "SELECT pg_sleep(0.15)");
            }
        }
        for twin in &mut twins {
            twin.run(round, 0, "ROLLBACK");
            twin.run(round, 0, "LISTEN #0");
        }
        twins[0].run(round, 0, "NOTIFY #0, 'end of round'");
        for twin in &mut twins {
            (0..2).for_each(|side| twin.finish(side));
            assert_eq!(twin.seen[0], twin.seen[1], "after:\n{}", twin.log.join("\n"));
        }
    }
}
