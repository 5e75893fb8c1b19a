//! COPY in both directions and both protocols, completed and failed.

use crate::support::raw::{self, Client, tags};
use crate::support::{Bouncer, eventually, postgres};

fn table(name: &str) -> (Bouncer, Client) {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    postgres().sql_in("app", &format!("DROP TABLE IF EXISTS {name}; CREATE TABLE {name} (n int)")).unwrap();
    postgres().sql_in("app", &format!("GRANT ALL ON {name} TO app")).unwrap();
    let client = bouncer.client();
    (bouncer, client)
}

/// The messages that start a COPY into `table` with the extended protocol.
fn start(table: &str) -> Vec<u8> {
    let copy = raw::parse("", &format!("COPY {table} FROM STDIN"));
    [copy, raw::bind("", "", &[]), raw::execute(), raw::sync()].concat()
}

/// Sends [`start`] and waits until the server wants data.
fn begin(client: &mut Client, table: &str) {
    client.send(&start(table));
    client.expect(b'1');
    client.expect(b'2');
    client.expect(b'G');
}

#[test]
fn copy_in_and_out_with_the_simple_protocol() {
    let (bouncer, mut client) = table("copy_simple");
    client.send_query("COPY copy_simple FROM STDIN");
    client.expect(b'G');
    let lines: String = (0..50_000).map(|n| format!("{n}\n")).collect();
    for chunk in lines.as_bytes().chunks(30_000) {
        client.send(&raw::copy_data(chunk));
    }
    client.send(&raw::copy_done());
    assert_eq!(tags(&client.until_ready()), "CZ");
    let out = client.query("COPY copy_simple TO STDOUT");
    assert_eq!(out.iter().filter(|message| message.tag == b'd').count(), 50_000);
    assert_eq!(client.value("SELECT count(*) FROM copy_simple"), "50000");
    assert_eq!(bouncer.show("SERVERS", "state"), ["idle"]);
}

#[test]
fn copy_in_with_the_extended_protocol_ignores_the_sync_in_it() {
    let (bouncer, mut client) = table("copy_extended");
    begin(&mut client, "copy_extended");
    client.send(&[raw::copy_data(b"1\n2\n"), raw::copy_done(), raw::sync()].concat());
    assert_eq!(tags(&client.until_ready()), "CZ");
    assert_eq!(bouncer.show("SERVERS", "state"), ["idle"]);
    // Everything in one packet, before the server has sent CopyInResponse.
    let end = [raw::copy_data(b"3\n"), raw::copy_done(), raw::sync()];
    client.send(&[start("copy_extended"), end.concat()].concat());
    assert_eq!(tags(&client.until_ready()), "12GCZ");
    assert_eq!(client.value("SELECT count(*) FROM copy_extended"), "3");
    assert_eq!(bouncer.show("SERVERS", "state"), ["idle"]);
}

#[test]
fn a_failed_copy_leaves_the_connection_usable() {
    let (bouncer, mut client) = table("copy_failed");
    client.send_query("COPY copy_failed FROM STDIN");
    client.expect(b'G');
    client.send(&raw::copy_data(b"1\nnot a number\n"));
    client.send(&raw::copy_data(b"2\n"));
    client.send(&raw::copy_done());
    assert_eq!(tags(&client.until_ready()), "EZ");
    client.send_query("COPY copy_failed FROM STDIN");
    client.expect(b'G');
    client.send(&raw::copy_fail("changed my mind"));
    let messages = client.until_ready();
    assert!(messages[0].error().1.contains("changed my mind"));
    assert_eq!(client.value("SELECT count(*) FROM copy_failed"), "0");
    assert_eq!(bouncer.show("SERVERS", "state"), ["idle"]);
}

#[test]
fn copy_data_outside_of_a_copy_is_ignored() {
    let (bouncer, mut client) = table("copy_stray");
    client.send(&[raw::copy_data(b"stray"), raw::query("SELECT 1")].concat());
    assert_eq!(tags(&client.until_ready()), "TDCZ");
    assert_eq!(bouncer.show("SERVERS", "state"), ["idle"]);
}

#[test]
fn a_server_that_skips_messages_after_a_failed_copy_is_not_given_to_the_next_client() {
    let (bouncer, mut client) = table("copy_skipping");
    let mut next = bouncer.client();
    begin(&mut client, "copy_skipping");
    client.send(&[raw::copy_data(b"not a number\n"), raw::copy_done()].concat());
    client.expect(b'E');
    // The server now discards everything up to the Sync that the first client still owes.
    next.send_query("SELECT 'next'");
    client.send(&raw::sync());
    client.expect(b'Z');
    assert_eq!(tags(&next.until_ready()), "TDCZ");
}

#[test]
fn a_copy_that_awaits_its_sync_keeps_its_server() {
    let (bouncer, mut client) = table("copy_open");
    let mut next = bouncer.client();
    begin(&mut client, "copy_open");
    client.send(&[raw::copy_data(b"1\n"), raw::copy_done(), raw::flush()].concat());
    client.expect(b'C');
    next.send_query("ROLLBACK");
    client.send(&raw::sync());
    client.expect(b'Z');
    next.until_ready();
    assert_eq!(client.value("SELECT count(*) FROM copy_open"), "1");
}

#[test]
fn a_sync_sent_after_the_rest_of_a_copy_is_answered_at_once() {
    let ends = [
        ("COPY copy_late TO STDOUT", &b""[..], "12HcCZ"),
        ("COPY copy_late FROM STDIN", &raw::copy_done(), "12GCZ"),
    ];
    for (sql, end, answer) in ends {
        let (bouncer, mut client) = table("copy_late");
        for _ in 0..5 {
            client.send(&[&raw::parse("", sql), &raw::bind("", "", &[]), &raw::execute(), end].concat());
            let state = "SELECT wait_event FROM pg_stat_activity WHERE query LIKE 'COPY copy_late%'";
            // The server has read all of it and buffers its answer until the Sync.
            eventually("the COPY is done", || postgres().sql_in("app", state).unwrap() == "ClientRead");
            client.send(&raw::sync());
            assert_eq!(tags(&client.until_ready()), answer);
        }
        assert_eq!(bouncer.show("SERVERS", "state"), ["idle"]);
    }
}
