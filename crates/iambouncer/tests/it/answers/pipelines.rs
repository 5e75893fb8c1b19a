//! Long and unfinished pipelines: errors arrive while the client is still sending, and nothing waits for a
//! Sync that may never come.

use crate::support::bouncer::Start;
use crate::support::raw::{self, Client, tags};
use crate::support::{Bouncer, answering, eventually, postgres};
use std::io::Write;
use std::sync::Mutex;

#[test]
fn a_parse_without_sync_or_flush_is_sent_and_its_error_comes_at_once() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    let mut client = bouncer.client();
    client.send(&raw::parse("", "SELEC 1"));
    assert_eq!(client.expect(b'E').error().0, "42601");
    client.send(&raw::sync());
    client.expect(b'Z');
    for part in [raw::parse("s", "SELECT 'parts'"), raw::bind("", "s", &[]), raw::execute()] {
        client.send(&part);
    }
    let mut console = bouncer.console();
    eventually("the batch has a server", || console.column("SHOW SERVERS", "state") == ["active"]);
    client.send(&raw::sync());
    assert_eq!(tags(&client.until_ready()), "12DCZ");
}

#[test]
fn canceling_the_wait_of_an_unfinished_batch_is_an_error_and_not_a_disconnect() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    let mut holder = bouncer.client();
    holder.query("BEGIN");
    let mut client = bouncer.client();
    let (pid, key) = client.cancel_key();
    client.send(&raw::parse("", "SELECT 1"));
    let mut console = bouncer.console();
    eventually("the client waits", || console.pools("cl_waiting") == ["1"]);
    crate::cancel::cancel(bouncer.port, pid, &key);
    assert_eq!(client.expect(b'E').error().0, "57014");
    client.send(&[raw::bind("", "", &[]), raw::execute(), raw::sync()].concat());
    client.expect(b'Z');
    holder.query("COMMIT");
    assert_eq!(client.value("SELECT 2"), "2");
}

#[test]
fn twenty_thousand_messages_without_a_sync_do_not_hang() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    let mut client = bouncer.client();
    let mut reader = Client { stream: client.stream.try_clone().unwrap(), greeting: Vec::new() };
    let writer = std::thread::spawn(move || {
        let bind = raw::bind("", "s", &[]);
        client.send(&raw::parse("s", "SELECT 1"));
        client.send(&bind.repeat(20_000));
        client.send(&raw::sync());
        client
    });
    let answers = tags(&reader.until_ready());
    assert_eq!(answers.len(), 20_002);
    writer.join().unwrap();
    assert_eq!(bouncer.show("SERVERS", "state"), ["idle"]);
}

#[test]
fn answers_of_the_pooler_behind_one_that_the_server_buffers_do_not_hang() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    let messages = 200_000;
    let mut client = bouncer.client();
    let mut reader = Client { stream: client.stream.try_clone().unwrap(), greeting: Vec::new() };
    let writer = std::thread::spawn(move || {
        // PostgreSQL buffers the answers to these, and the pooler's own answers have to come after them.
        client.send(&[raw::parse("", "SELECT 1"), raw::bind("", "", &[])].concat());
        client.send(&[raw::parse("s", "SELECT 1"), raw::close_statement("s")].concat().repeat(messages / 2));
        client.send(&raw::sync());
        client
    });
    assert_eq!(reader.until_ready().len(), 2 + messages + 1);
    writer.join().unwrap();
}

#[test]
fn a_disconnect_is_noticed_while_the_client_is_not_read_from() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    for messages in [5_000, 40_000] {
        let mut client = bouncer.client();
        // The first statement runs long, and the pooler stops reading from the client meanwhile.
        client
            .send(&[raw::parse("", "SELECT pg_sleep(30)"), raw::bind("", "", &[]), raw::execute()].concat());
        client.stream.set_nonblocking(true).unwrap();
        let flood = raw::bind("", "", &[]).repeat(messages);
        let mut sent = 0;
        while let Ok(n) = client.stream.write(&flood[sent..]) {
            sent += n;
            if n == 0 || sent == flood.len() {
                break;
            }
        }
        drop(client);
        let mut next = bouncer.client();
        assert_eq!(next.value("SELECT 'its place is free'"), "its place is free");
    }
}

#[test]
fn an_early_error_of_a_long_pipeline_arrives_while_the_client_is_still_sending() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    let long = raw::parse("", &format!("SELECT 1 /* {} */", "x".repeat(600_000)));
    // The client stops in the middle of a message: the error arrives although the pipeline is not complete.
    for (messages, half) in [(0, 10), (0, 300_000), (1000, 10), (1000, 300_000)] {
        let mut client = bouncer.client();
        let pipeline = [raw::parse("", "SELECT 1"), raw::bind("", "", &[])].concat().repeat(messages);
        client.send(&[raw::parse("", "SELEC 1"), pipeline, long[..half].to_vec()].concat());
        assert_eq!(client.expect(b'E').error().0, "42601", "{messages} messages and {half} bytes");
        client.send(&[&long[half..], &raw::sync()].concat());
        client.expect(b'Z');
        assert_eq!(client.value("SELECT 1"), "1");
    }
}

/// A server that answers nothing until it has received three batches.
fn server_that_waits_for_three_batches() -> u16 {
    let withheld = Mutex::new((0, Vec::new()));
    answering::server(move |message| {
        if !matches!(message.tag, b'P' | b'B' | b'E' | b'C' | b'S') {
            return None;
        }
        let mut withheld = withheld.lock().unwrap();
        let (batches, answers) = &mut *withheld;
        answers.extend(answering::usual_answer(message.tag));
        *batches += usize::from(message.tag == b'S');
        Some(if *batches < 3 { Vec::new() } else { std::mem::take(answers) })
    })
}

#[test]
fn a_batch_of_a_named_statement_is_sent_before_the_previous_one_is_answered() {
    let port = server_that_waits_for_three_batches();
    let bouncer = Start::databases(&format!("app = host=127.0.0.1 port={port} dbname=app")).start();
    let mut client = bouncer.client();
    let batch = |name: &str| {
        let run =
            [raw::bind("", name, &[]), raw::execute(), raw::close_statement(name), raw::sync()].concat();
        [raw::parse(name, &format!("SELECT '{name}'")), run].concat()
    };
    client.send(&["a", "b", "c"].map(batch).concat());
    for _ in 0..3 {
        assert_eq!(tags(&client.until_ready()), "12C3Z");
    }
}

#[test]
fn batches_of_named_statements_do_not_wait_for_each_other() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    let mut client = bouncer.client();
    let batches = 300;
    let batch = |n: usize| {
        let name = format!("s{n}");
        let run =
            [raw::bind("", &name, &[]), raw::execute(), raw::close_statement(&name), raw::sync()].concat();
        [raw::parse(&name, &format!("SELECT 'batch {}'", n % 7)), run].concat()
    };
    client.send(&(0..batches).flat_map(batch).collect::<Vec<_>>());
    for n in 0..batches {
        let messages = client.until_ready();
        assert_eq!(tags(&messages), "12DC3Z");
        assert_eq!(messages[2].row()[0].as_deref(), Some(format!("batch {}", n % 7).as_str()));
    }
    // All batches use one name, with failures in between: each batch sees the state its predecessor left.
    let failing = [raw::parse("t", "SELEC"), raw::sync()].concat();
    let good =
        [raw::parse("t", "SELECT 1"), raw::bind("", "t", &[]), raw::execute(), raw::close_statement("t")]
            .concat();
    let good = [good, raw::sync()].concat();
    client.send(&[good.clone(), failing, good].concat());
    let all: Vec<_> = (0..3).map(|_| tags(&client.until_ready())).collect();
    assert_eq!(all, ["12DC3Z", "EZ", "12DC3Z"]);
}
