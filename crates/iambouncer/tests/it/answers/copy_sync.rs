//! A Sync after a COPY is answered or ignored depending on when the server notices an error. In either case
//! the next client receives its own answers.

use crate::cancel::cancel;
use crate::support::raw::{self, Client, tags};
use crate::support::{Bouncer, eventually, postgres};

struct Fixture {
    bouncer: Bouncer,
    table: &'static str,
}

impl Fixture {
    fn new(table: &'static str, settings: &[&str]) -> Self {
        let settings = [&["default_pool_size = 1"], settings].concat();
        let bouncer = Bouncer::in_front_of(postgres(), &settings);
        postgres()
            .sql_in("app", &format!("DROP TABLE IF EXISTS {table}; CREATE TABLE {table} (n int)"))
            .unwrap();
        postgres().sql_in("app", &format!("GRANT ALL ON {table} TO app")).unwrap();
        Self { bouncer, table }
    }

    fn copy(&self) -> String {
        format!("COPY {} FROM STDIN", self.table)
    }

    /// The messages that start a COPY with the extended protocol, without a Sync.
    fn copy_extended(&self) -> Vec<u8> {
        [raw::parse("", &self.copy()), raw::bind("", "", &[]), raw::execute()].concat()
    }

    /// Other clients send queries, and each receives its own answers.
    fn other_clients_get_their_own_answers(&self) {
        for n in 0..20 {
            let mut client = self.bouncer.client();
            for m in 0..3 {
                let mark = format!("{n}-{m}");
                assert_eq!(client.value(&format!("SELECT '{mark}'")), mark);
            }
        }
        assert!(!self.bouncer.log().contains("out of step"), "{}", self.bouncer.log());
    }
}

fn read_ready(client: &mut Client, count: usize) -> String {
    (0..count).map(|_| tags(&client.until_ready())).collect::<Vec<_>>().join(" ")
}

#[test]
fn syncs_after_a_rejected_line_do_not_shift_the_answers_of_other_clients() {
    let fixture = Fixture::new("sync_simple", &[]);
    let mut client = fixture.bouncer.client();
    client.send_query(&fixture.copy());
    client.expect(b'G');
    client.send(&[raw::copy_data(b"not a number\n"), raw::sync(), raw::sync(), raw::sync()].concat());
    assert_eq!(read_ready(&mut client, 4), "EZ Z Z Z");
    fixture.other_clients_get_their_own_answers();
    assert_eq!(client.value("SELECT 'still here'"), "still here");
}

#[test]
fn syncs_in_one_packet_with_a_rejected_line_do_not_shift_answers() {
    let fixture = Fixture::new("sync_packet", &[]);
    let mut client = fixture.bouncer.client();
    let bad = [raw::copy_data(b"not a number\n"), raw::sync(), raw::sync()].concat();
    client.send(&[raw::query(&fixture.copy()), bad, raw::query("SELECT 'behind'")].concat());
    let answers = read_ready(&mut client, 1);
    assert!(answers == "GEZ", "{answers}");
    assert_eq!(read_ready(&mut client, 3), "Z Z TDCZ");
    fixture.other_clients_get_their_own_answers();
}

#[test]
fn syncs_after_a_rejected_line_in_the_extended_protocol_do_not_shift_answers() {
    let fixture = Fixture::new("sync_extended", &[]);
    let mut client = fixture.bouncer.client();
    let bad = [raw::copy_data(b"not a number\n"), raw::sync(), raw::sync()].concat();
    client.send(&[fixture.copy_extended(), bad].concat());
    assert_eq!(read_ready(&mut client, 2), "12GEZ Z");
    fixture.other_clients_get_their_own_answers();
}

#[test]
fn a_sync_right_after_the_execute_is_answered_once() {
    let fixture = Fixture::new("sync_driver", &[]);
    let mut client = fixture.bouncer.client();
    client.send(&[fixture.copy_extended(), raw::sync()].concat());
    for tag in [b'1', b'2', b'G'] {
        client.expect(tag);
    }
    client.send(&[raw::copy_data(b"not a number\n"), raw::copy_done(), raw::sync()].concat());
    assert_eq!(read_ready(&mut client, 1), "EZ");
    // A surplus ReadyForQuery would be taken for the answer to this query.
    assert_eq!(client.value("SELECT 'mine'"), "mine");
    fixture.other_clients_get_their_own_answers();
}

#[test]
fn the_sync_of_a_copy_that_never_starts_is_answered() {
    let fixture = Fixture::new("sync_missing", &[]);
    let mut client = fixture.bouncer.client();
    client.send(&[raw::parse("", "COPY no_such_table FROM STDIN"), raw::bind("", "", &[])].concat());
    client.send(&[raw::execute(), raw::sync()].concat());
    let answer = read_ready(&mut client, 1);
    assert!(answer.ends_with("EZ"), "{answer}");
    client.send(&[raw::parse("", "COPY (SELECT 1) TO STDOUT"), raw::bind("", "", &[])].concat());
    client.send(&[raw::execute(), raw::sync()].concat());
    assert_eq!(read_ready(&mut client, 1), "12HdcCZ");
    fixture.other_clients_get_their_own_answers();
}

#[test]
fn syncs_before_a_copy_fail_or_a_cancel_request_are_answered() {
    let fixture = Fixture::new("sync_fail", &[]);
    let mut client = fixture.bouncer.client();
    client.send_query(&fixture.copy());
    client.expect(b'G');
    client.send(&[raw::copy_data(b"1\n"), raw::sync(), raw::copy_fail("no")].concat());
    assert_eq!(read_ready(&mut client, 2), "EZ Z");
    fixture.other_clients_get_their_own_answers();

    client.send_query(&fixture.copy());
    client.expect(b'G');
    client.send(&[raw::copy_data(b"1\n"), raw::sync(), raw::sync()].concat());
    let (pid, key) = client.cancel_key();
    cancel(fixture.bouncer.port, pid, &key);
    // The server checks for the cancel after it has read the next line.
    client.send(&raw::copy_data(b"2\n"));
    assert_eq!(read_ready(&mut client, 3), "EZ Z Z");
    fixture.other_clients_get_their_own_answers();
}

#[test]
fn a_copy_that_completes_ignores_the_syncs_in_it() {
    let fixture = Fixture::new("sync_complete", &[]);
    let mut client = fixture.bouncer.client();
    let lines =
        [raw::copy_data(b"1\n"), raw::sync(), raw::flush(), raw::copy_data(b"2\n"), raw::sync()].concat();
    client.send(&[raw::query(&fixture.copy()), lines.clone(), raw::copy_done()].concat());
    assert_eq!(read_ready(&mut client, 1), "GCZ");
    client.send(&[fixture.copy_extended(), lines, raw::copy_done(), raw::sync()].concat());
    assert_eq!(read_ready(&mut client, 1), "12GCZ");
    let count = format!("SELECT count(*) FROM {}", fixture.table);
    assert_eq!(client.value(&count), "4");
    fixture.other_clients_get_their_own_answers();
}

#[test]
fn two_copies_in_one_query_each_ignore_their_own_syncs() {
    let fixture = Fixture::new("sync_two", &[]);
    let mut client = fixture.bouncer.client();
    let lines = [raw::copy_data(b"1\n"), raw::sync(), raw::copy_done()].concat();
    let two = format!("{}; {}", fixture.copy(), fixture.copy());
    client.send(&[raw::query(&two), lines.clone(), lines, raw::query("SELECT 'behind'")].concat());
    assert_eq!(read_ready(&mut client, 2), "GCGCZ TDCZ");
    fixture.other_clients_get_their_own_answers();
}

#[test]
fn the_reset_query_of_session_pooling_does_not_hide_a_surplus_answer() {
    let fixture = Fixture::new("sync_session", &["pool_mode = session"]);
    for _ in 0..5 {
        let mut client = fixture.bouncer.client();
        client.send_query(&fixture.copy());
        client.expect(b'G');
        // The surplus answer is still under way when the client disconnects and the reset query is sent.
        let slow = raw::query("SELECT pg_sleep(0.2)");
        client.send(&[raw::copy_data(b"not a number\n"), raw::sync(), slow].concat());
        assert_eq!(read_ready(&mut client, 2), "EZ Z");
        client.send(&raw::terminate());
        drop(client);
        assert_eq!(fixture.bouncer.client().value("SELECT 'next'"), "next");
    }
    fixture.other_clients_get_their_own_answers();
}

#[test]
fn ten_thousand_syncs_are_answered_one_by_one() {
    let fixture = Fixture::new("sync_many", &[]);
    let mut client = fixture.bouncer.client();
    client.send_query(&fixture.copy());
    client.expect(b'G');
    let syncs = raw::sync().repeat(10_000);
    client.send(&[raw::copy_data(b"not a number\n"), syncs].concat());
    assert_eq!(read_ready(&mut client, 10_001).len(), "EZ".len() + 10_000 * " Z".len());
    fixture.other_clients_get_their_own_answers();
    let mut console = fixture.bouncer.console();
    eventually("the server is idle", || console.column("SHOW SERVERS", "state") == ["idle"]);
}

#[test]
fn a_held_sync_is_sent_before_the_messages_after_a_partial_message() {
    let halves = |message: Vec<u8>| (message[..6].to_vec(), message[6..].to_vec());
    for mode in ["pool_mode = session", "pool_mode = transaction"] {
        let fixture = Fixture::new("sync_half", &[mode]);
        for half in [raw::copy_data(b"1\n"), raw::copy_fail("no")] {
            let mut client = fixture.bouncer.client();
            let (first, second) = halves(half);
            let slow = raw::query("BEGIN; SELECT pg_sleep(0.1)");
            client.send(&[slow, raw::copy_done(), raw::sync(), first].concat());
            assert_eq!(tags(&client.until_ready()), "CTDCZ");
            client.send(&[second, raw::close_statement(""), raw::sync(), raw::query("COMMIT")].concat());
            assert_eq!(read_ready(&mut client, 3), "Z 3Z CZ", "{mode}");
        }
        fixture.other_clients_get_their_own_answers();
    }
}
