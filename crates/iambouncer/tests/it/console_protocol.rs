//! Both query protocols at the console: limits, result formats, and the state after an error.

use crate::support::raw::{self, Client, tags};
use crate::support::{Bouncer, eventually, postgres};

fn framed(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(body);
    out
}

/// A Bind without parameters that requests these result formats.
fn bind_in(formats: &[u16]) -> Vec<u8> {
    let mut body = b"\0\0\0\0\0\0".to_vec();
    body.extend_from_slice(&(formats.len() as u16).to_be_bytes());
    formats.iter().for_each(|format| body.extend_from_slice(&format.to_be_bytes()));
    framed(b'B', &body)
}

fn peak_kib(bouncer: &Bouncer) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", bouncer.pid().as_raw_nonzero())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_message_with_thousands_of_statements_is_refused() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut console = bouncer.console();
    let before = peak_kib(&bouncer);
    let messages = console.query(&"SHOW CONFIG;".repeat(4900));
    assert_eq!(tags(&messages), "EZ");
    assert_eq!(messages[0].error().0, "54000");
    let answer = tags(&console.query(&"SHOW CONFIG;".repeat(64)));
    assert_eq!(answer.matches('C').count(), 64);
    assert!(peak_kib(&bouncer) < before + 16 * 1024, "{} and {}", before, peak_kib(&bouncer));
}

#[test]
fn unread_answers_of_a_console_client_do_not_accumulate() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut lazy = bouncer.console();
    let before = peak_kib(&bouncer);
    // 200 × 64 × 10 KB, of which the socket buffers hold a few MB.
    for _ in 0..200 {
        lazy.send_query(&"SHOW CONFIG;".repeat(64));
    }
    let mut console = bouncer.console();
    let ids = console.column("SHOW CLIENTS", "id");
    assert!(peak_kib(&bouncer) < before + 16 * 1024, "{} and {}", before, peak_kib(&bouncer));
    // A client that does not read can still be killed.
    assert_eq!(tags(&console.query(&format!("KILL_CLIENT {}", ids[0]))), "CZ");
    eventually("it is gone", || console.column("SHOW CLIENTS", "id").len() == 1);
}

#[test]
fn result_formats_are_those_that_bind_requests() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut console = bouncer.console();
    let parse = raw::parse("", "SHOW LISTS");
    let mut run = |formats: &[u16]| {
        console.send(
            &[parse.clone(), bind_in(formats), raw::describe_portal(), raw::execute(), raw::sync()].concat(),
        );
        console.until_ready()
    };
    let text = run(&[]);
    let binary = run(&[0, 1]);
    assert_eq!(tags(&text), tags(&binary));
    let described = |messages: &[raw::Message]| messages[2].bytes[messages[2].bytes.len() - 2..].to_vec();
    assert_eq!((described(&text), described(&binary)), (vec![0, 0], vec![0, 1]));
    let first = text[3].row();
    let number: i32 = first[1].as_ref().unwrap().parse().unwrap();
    assert!(binary[3].bytes.ends_with(&[[0, 0, 0, 4], number.to_be_bytes()].concat()), "{:?}", binary[3]);
    assert_eq!(tags(&run(&[1])), tags(&text));
    let wrong = run(&[0, 1, 0]);
    assert_eq!((tags(&wrong).as_str(), wrong[1].error().0.as_str()), ("1EZ", "08P01"));
}

#[test]
fn a_driver_that_wants_binary_results_reads_the_console() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (databases, pool_size) = runtime.block_on(async {
        let url = format!("host=127.0.0.1 port={} user=postgres dbname=pgbouncer", bouncer.port);
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let rows = client.query("SHOW DATABASES", &[]).await.unwrap();
        let app = rows.iter().find(|row| row.get::<_, &str>("name") == "app").unwrap();
        (rows.len(), app.get::<_, i32>("pool_size"))
    });
    assert!(databases >= 2);
    assert_eq!(pool_size, 20);
}

#[test]
fn a_failed_parse_leaves_no_earlier_unnamed_statement() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut console = bouncer.console();
    console.send(&[raw::parse("", "SHOW LISTS"), raw::sync()].concat());
    assert_eq!(tags(&console.until_ready()), "1Z");
    console.send(&[raw::parse("", "SHOW NONSENSE"), raw::sync()].concat());
    assert_eq!(tags(&console.until_ready()), "EZ");
    console.send(&[raw::bind("", "", &[]), raw::execute(), raw::sync()].concat());
    let messages = console.until_ready();
    assert_eq!((tags(&messages).as_str(), messages[0].error().0.as_str()), ("EZ", "26000"));
    console.send(&[raw::parse("s", "SHOW LISTS"), raw::parse("s", "SHOW STATE"), raw::sync()].concat());
    let messages = console.until_ready();
    assert_eq!((tags(&messages).as_str(), messages[1].error().0.as_str()), ("1EZ", "42P05"));
    console.send(&[raw::parse("", "SHOW STATE; SHOW LISTS"), raw::sync()].concat());
    assert_eq!(console.until_ready()[0].error().0, "42601");
}

#[test]
fn a_function_call_is_answered_with_an_error_and_ready_for_query() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut console = bouncer.console();
    console.send(&framed(b'F', &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0]));
    let messages = console.until_ready();
    assert_eq!((tags(&messages).as_str(), messages[0].error().0.as_str()), ("EZ", "0A000"));
    // COPY messages outside a COPY are ignored; an invalid message closes the connection.
    console.send(&[raw::copy_data(b"x"), raw::copy_done(), raw::query("SHOW STATE")].concat());
    assert_eq!(tags(&console.until_ready()), "TDDDCZ");
    console.send(&framed(b'p', b"\0"));
    let last = console.until_end();
    assert_eq!((tags(&last).as_str(), last[0].error().0.as_str()), ("E", "08P01"));
}

#[test]
fn a_semicolon_in_quotes_is_part_of_a_value() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut console = bouncer.console();
    let messages = console.query("SET server_reset_query = 'DISCARD ALL;  SELECT 1'; SHOW STATE;");
    assert_eq!(tags(&messages), "CTDDDCZ");
    let at = console.column("SHOW CONFIG", "key").iter().position(|key| key == "server_reset_query").unwrap();
    assert_eq!(console.column("SHOW CONFIG", "value")[at], "DISCARD ALL;  SELECT 1");
}

#[test]
fn messages_after_an_error_are_skipped_up_to_the_sync() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut console: Client = bouncer.console();
    console.send(&[raw::parse("", "SHOW NONSENSE"), raw::query("SHOW STATE"), raw::sync()].concat());
    assert_eq!(tags(&console.until_ready()), "EZ");
    assert_eq!(tags(&console.query("SHOW STATE")), "TDDDCZ");
}
