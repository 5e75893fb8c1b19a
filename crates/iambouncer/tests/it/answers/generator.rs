//! Random sequences of all client messages, in packets split at random positions, with errors and cancel
//! requests at random times. Several clients share few servers; every row, COPY line and error carries the
//! mark of the client that requested it, and no client may receive the mark of another.
//!
//! `ANSWERS_SECONDS` sets how long each combination of pool mode and workers runs: `make answers` runs them
//! for hours.

use crate::cancel::cancel;
use crate::support::Bouncer;
use crate::support::postgres::start;
use crate::support::random::Random;
use crate::support::raw::{self, Client, Message};
use rds_sim::postgres::{Postgres, PostgresOptions};
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const CLIENTS: u64 = 6;
const DEFAULT_SECONDS: u64 = 3;
/// Messages per sequence.
const MAX_MESSAGES: usize = 14;
/// Sequences per connection: in session pooling the other clients wait for its end.
const SEQUENCES_PER_CONNECTION: usize = 20;
/// Named statements of a client; they persist from one sequence to the next.
const NAMES: [&str; 3] = ["a", "b", "c"];

/// Part of the error that a client receives if its server was out of step.
const OUT_OF_STEP: &str = "the server sent a message that no request waits for";

/// What a client knows about a transaction that PostgreSQL 18 leaves open: see `left_open_transactions`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Transaction {
    /// The server has reported that it is idle, or has run a command since its last ReadyForQuery.
    Other,
    /// The last message was a ReadyForQuery in a transaction.
    Open,
    /// The next one was another, without a transaction: the next command may fail.
    LeftOpen,
}

/// Totals over all clients.
#[derive(Default)]
struct Tally {
    sequences: AtomicU64,
    answers: AtomicU64,
    marks: AtomicU64,
    errors: AtomicU64,
    cancels: AtomicU64,
}

struct TestClient<'a> {
    port: u16,
    id: u64,
    random: Random,
    tally: &'a Tally,
    allows_transactions: bool,
    sequence: u64,
    mark: u64,
    transaction: Transaction,
    /// The bytes sent since the login, printed if the test fails.
    sent_log: String,
}

impl TestClient<'_> {
    fn next_mark(&mut self) -> String {
        self.mark += 1;
        format!("{}.{}", self.sequence, self.mark)
    }

    fn own_mark(&mut self) -> String {
        let mark = self.next_mark();
        format!("c{}.{mark}", self.id)
    }

    /// SQL of a simple query.
    fn query(&mut self) -> String {
        let mark = self.own_mark();
        match self.random.below(12) {
            0 => format!("SELECT '{mark}'::int"),
            1 => format!("SELECT '{mark}'; SELECT '{mark}' FROM generate_series(1, 20)"),
            2 => format!("SELECT '{mark}'; SELECT '{mark}'::int; SELECT '{mark}'"),
            3 if self.allows_transactions => "BEGIN".to_owned(),
            4 if self.allows_transactions => ["COMMIT", "ROLLBACK"][self.random.below(2)].to_owned(),
            5 => format!("COPY (SELECT '{mark}') TO STDOUT"),
            6 => "COPY answers_generator FROM STDIN".to_owned(),
            7 => "COPY answers_generator FROM STDIN; COPY answers_generator FROM STDIN".to_owned(),
            8 => match self.random.below(4) {
                0 => String::new(),
                1 => "SET application_name = 'x'".to_owned(),
                2 => "DISCARD ALL".to_owned(),
                _ => format!("SELECT '{mark}'; DEALLOCATE ALL"),
            },
            9 => format!("SELECT '{mark}', pg_sleep(0.002)"),
            _ => format!("SELECT '{mark}'"),
        }
    }

    fn name(&mut self) -> &'static str {
        if self.random.one_in(3) { "" } else { NAMES[self.random.below(NAMES.len())] }
    }

    /// A Parse. The text of an unnamed statement is unique to the client, that of a named one is shared; the
    /// values of a Bind mark every row with the client.
    fn parse(&mut self) -> Vec<u8> {
        let name = self.name();
        let sql = match (self.random.below(10), name) {
            (0, _) => "SELEC".to_owned(),
            (1, _) => "COPY answers_generator FROM STDIN".to_owned(),
            (_, "") => format!("SELECT 'c{}.' || $1", self.id),
            (2, _) => "SELECT $1::int".to_owned(),
            (n, _) => format!("SELECT $1::text /* {} */", n % 4),
        };
        raw::parse(name, &sql)
    }

    fn bind(&mut self) -> Vec<u8> {
        let name = self.name();
        let portal = if self.random.one_in(4) { "p" } else { "" };
        let value = if name.is_empty() { self.next_mark() } else { self.own_mark() };
        match self.random.below(12) {
            0 => raw::bind(portal, name, &[]),
            _ => raw::bind(portal, name, &[value.as_bytes()]),
        }
    }

    /// A batch as drivers send it, or a single message of any type.
    fn messages(&mut self, out: &mut Vec<u8>) {
        let message = match self.random.below(17) {
            0..=2 => raw::query(&self.query()),
            3 => self.parse(),
            4 => self.bind(),
            5 => raw::execute(),
            6 => raw::describe_statement(self.name()),
            7 => raw::close_statement(self.name()),
            8 => raw::flush(),
            9 | 10 => raw::sync(),
            11 => raw::copy_data(if self.random.one_in(2) { b"1\n" } else { b"not a number\n" }),
            12 => raw::copy_done(),
            13 => raw::copy_fail("no"),
            14 => {
                let value = self.next_mark();
                let sql = format!("SELECT 'c{}.' || $1", self.id);
                let run = [raw::bind("", "", &[value.as_bytes()]), raw::execute(), raw::sync()].concat();
                if self.random.one_in(2) { [raw::parse("", &sql), run].concat() } else { run }
            }
            15 => {
                let (name, value) = (NAMES[self.random.below(NAMES.len())], self.own_mark());
                let sql = format!("SELECT $1::text /* {} */", self.random.below(4));
                let run = [raw::bind("", name, &[value.as_bytes()]), raw::execute(), raw::sync()].concat();
                [raw::close_statement(name), raw::parse(name, &sql), run].concat()
            }
            _ => {
                let copy = raw::query("COPY answers_generator FROM STDIN");
                let line = raw::copy_data(if self.random.one_in(2) { b"1\n" } else { b"not a number\n" });
                [copy, line, raw::sync().repeat(self.random.below(3)), raw::copy_done()].concat()
            }
        };
        out.extend_from_slice(&message);
    }

    /// Sends in parts; the server may have closed the connection meanwhile.
    fn send(&mut self, client: &mut Client, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        while !rest.is_empty() {
            let n = if self.random.one_in(3) { rest.len() } else { 1 + self.random.below(rest.len()) };
            if client.stream.write_all(&rest[..n]).is_err() {
                return false;
            }
            rest = &rest[n..];
        }
        true
    }

    /// Ends the current COPY, batch or transaction and requests a mark, in packets with a pause between them. The
    /// client sends nothing more until it has the answer to the last one.
    fn final_messages(&mut self) -> (Vec<Vec<u8>>, String) {
        let mark = self.own_mark();
        let ends = [raw::copy_done(), raw::copy_done(), raw::sync()].concat();
        let rollback = if self.allows_transactions { raw::query("ROLLBACK") } else { Vec::new() };
        // No later sequence may execute these statements with the mark of this one: the value is a parameter, or the
        // name is used here only.
        let run = match self.random.below(4) {
            0 | 1 => return (vec![[ends, rollback, raw::query(&format!("SELECT '{mark}'"))].concat()], mark),
            2 => {
                let prefix = format!("c{}.", self.id);
                let parse = raw::parse("", &format!("SELECT '{prefix}' || $1"));
                [parse, raw::bind("", "", &[&mark.as_bytes()[prefix.len()..]]), raw::execute()].concat()
            }
            _ => {
                let parse = raw::parse("final", &format!("COPY (SELECT '{mark}') TO STDOUT"));
                [raw::close_statement("final"), parse, raw::bind("", "final", &[]), raw::execute()].concat()
            }
        };
        (vec![[ends, rollback, run].concat(), raw::sync()], mark)
    }

    /// Sends packets as a client that pauses between them.
    fn send_packets(&mut self, client: &mut Client, packets: &[Vec<u8>]) -> bool {
        packets.iter().enumerate().all(|(at, packet)| {
            if at > 0 {
                std::thread::sleep(Duration::from_millis(self.random.below(4) as u64));
            }
            self.send(client, packet)
        })
    }

    fn check(&self, message: &Message) {
        let foreign = |text: &str| {
            text.match_indices('c').any(|(at, _)| {
                let digits: String = text[at + 1..].chars().take_while(char::is_ascii_digit).collect();
                !digits.is_empty()
                    && text[at + 1 + digits.len()..].starts_with('.')
                    && digits != self.id.to_string()
            })
        };
        let text = match message.tag {
            b'D' => message.row().into_iter().flatten().collect::<Vec<_>>().join(" "),
            b'd' => String::from_utf8_lossy(&message.bytes[5..]).into_owned(),
            b'E' => message.error().1,
            _ => return,
        };
        assert!(!foreign(&text), "received {text:?}");
        assert!(!text.contains("iamb_") && !text.contains(OUT_OF_STEP), "{text}");
        if message.tag == b'D' {
            let is_of_this_sequence = text.contains(&format!("c{}.{}.", self.id, self.sequence));
            assert!(is_of_this_sequence || text.is_empty(), "an old answer: {text:?}");
            self.tally.marks.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// True for the error of a transaction that was left open, which no client may receive for the messages of another.
    fn is_of_own_open_transaction(&mut self, message: &Message) -> bool {
        let before = self.transaction;
        self.transaction = match (message.tag, before) {
            (b'Z', _) if message.bytes[5] == b'T' => Transaction::Open,
            (b'Z', Transaction::Open | Transaction::LeftOpen) => Transaction::LeftOpen,
            (b'Z' | b'C' | b'E', _) => Transaction::Other,
            _ => before,
        };
        let is_error = message.tag == b'E' && message.error().0 == "XX000";
        assert!(!is_error || before == Transaction::LeftOpen, "for another client: {:?}", message.error());
        is_error
    }

    /// Runs one sequence. False if the connection was closed, as some sequences make the server do.
    fn run_sequences(&mut self, client: &mut Client) -> bool {
        self.sequence += 1;
        let mut bytes = Vec::new();
        for _ in 0..1 + self.random.below(MAX_MESSAGES) {
            self.messages(&mut bytes);
        }
        self.sent_log.push_str(&format!("sequence {}: {}\n", self.sequence, bytes.escape_ascii()));
        let (final_messages, mut mark) = self.final_messages();
        let mut sent = self.send(client, &bytes);
        if sent && self.random.one_in(6) {
            let (pid, key) = client.cancel_key();
            cancel(self.port, pid, &key);
            self.tally.cancels.fetch_add(1, Ordering::Relaxed);
        }
        sent = sent && self.send_packets(client, &final_messages);
        let mut is_marked = false;
        while sent {
            let Some(message) = client.read() else { break };
            self.check(&message);
            let is_of_open_transaction = self.is_of_own_open_transaction(&message);
            match message.tag {
                b'D' => is_marked |= message.row()[0].as_deref() == Some(mark.as_str()),
                b'd' => is_marked |= message.bytes[5..].trim_ascii_end() == mark.as_bytes(),
                b'Z' if is_marked => {
                    self.tally.sequences.fetch_add(1, Ordering::Relaxed);
                    return true;
                }
                b'E' => {
                    self.tally.errors.fetch_add(1, Ordering::Relaxed);
                    // It may concern the query for the mark, or a message before it.
                    if message.error().0 == "57014" || is_of_open_transaction {
                        let (final_messages, again) = self.final_messages();
                        mark = again;
                        // A cancel request may also have hit the Sync behind the mark.
                        is_marked = false;
                        sent = self.send_packets(client, &final_messages);
                    }
                }
                _ => {}
            }
            self.tally.answers.fetch_add(u64::from(message.tag == b'Z'), Ordering::Relaxed);
        }
        false
    }

    fn run(&mut self, until: Instant) {
        while Instant::now() < until {
            let mut client = Client::log_in(self.port, "app", "app");
            self.sent_log.clear();
            self.transaction = Transaction::Other;
            for _ in 0..SEQUENCES_PER_CONNECTION {
                if Instant::now() >= until || !self.run_sequences(&mut client) {
                    break;
                }
            }
        }
    }
}

impl Drop for TestClient<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("client {} has sent since its login:\n{}", self.id, self.sent_log);
        }
    }
}

/// A server of its own: the messages make PostgreSQL 18.4 crash at times, and with it all its sessions.
fn own_server() -> Postgres {
    let server = start(PostgresOptions::default());
    server.sql("CREATE ROLE app LOGIN").unwrap();
    server.sql("CREATE DATABASE app OWNER app").unwrap();
    server.sql_in("app", "CREATE TABLE answers_generator (n int)").unwrap();
    server.sql_in("app", "GRANT ALL ON answers_generator TO app").unwrap();
    server
}

fn run_sequences(settings: &[&str], allows_transactions: bool) {
    let server = own_server();
    let seconds =
        std::env::var("ANSWERS_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(DEFAULT_SECONDS);
    let bouncer =
        Bouncer::in_front_of(&server, &[settings, &["default_pool_size = 1", "http_port = auto"]].concat());
    let (tally, until) = (Tally::default(), Instant::now() + Duration::from_secs(seconds));
    std::thread::scope(|scope| {
        for id in 0..CLIENTS {
            let (tally, port) = (&tally, bouncer.port);
            let seed = (id + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(std::process::id());
            scope.spawn(move || {
                let random = Random(seed | 1);
                let mut test_client = TestClient {
                    port,
                    id,
                    random,
                    tally,
                    allows_transactions,
                    sequence: 0,
                    mark: 0,
                    transaction: Transaction::Other,
                    sent_log: String::new(),
                };
                test_client.run(until);
            });
        }
    });
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    println!(
        "{settings:?}, {seconds} s: {} sequences, {} answers, {} marked rows, {} errors, {} cancel requests",
        of(&tally.sequences),
        of(&tally.answers),
        of(&tally.marks),
        of(&tally.errors),
        of(&tally.cancels)
    );
    assert!(of(&tally.marks) > 0);
    let scrape = crate::support::http::scrape(bouncer.http_port());
    assert_eq!(scrape.sum("iambouncer_protocol_mismatches_total", &[]), Some(0.0), "{}", bouncer.log());
}

#[test]
fn random_messages_in_transaction_pooling() {
    run_sequences(&["pool_mode = transaction"], true);
}

#[test]
fn random_messages_in_transaction_pooling_with_two_workers() {
    run_sequences(&["pool_mode = transaction", "workers = 2"], true);
}

#[test]
fn random_messages_in_statement_pooling() {
    run_sequences(&["pool_mode = statement"], false);
}

#[test]
fn random_messages_in_statement_pooling_with_two_workers() {
    run_sequences(&["pool_mode = statement", "workers = 2"], false);
}

#[test]
fn random_messages_in_session_pooling() {
    run_sequences(&["pool_mode = session"], true);
}

#[test]
fn random_messages_in_session_pooling_with_two_workers() {
    run_sequences(&["pool_mode = session", "workers = 2"], true);
}
