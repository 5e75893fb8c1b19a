//! The unnamed statement in transaction pooling: a client may use it in a later batch and gets its own rows.

use crate::support::raw::{self, Client, tags};
use crate::support::{Bouncer, postgres};

/// Reads up to ReadyForQuery and returns the first value of the first row.
fn value(client: &mut Client) -> String {
    let messages = client.until_ready();
    let row = messages.iter().find(|message| message.tag == b'D');
    row.unwrap_or_else(|| panic!("no row: {}", tags(&messages))).row()[0].clone().unwrap()
}

fn parse_in_one_batch(client: &mut Client, sql: &str) {
    client.send(&[raw::parse("", sql), raw::describe_statement(""), raw::sync()].concat());
    assert_eq!(tags(&client.until_ready()), "1tTZ");
}

fn bind_in_the_next(client: &mut Client, values: &[&[u8]]) {
    client.send(&[raw::bind("", "", values), raw::execute(), raw::sync()].concat());
}

#[test]
fn eight_clients_that_bind_in_a_second_batch_get_their_own_rows() {
    for settings in [&["default_pool_size = 3"][..], &["default_pool_size = 1", "workers = 2"]] {
        let bouncer = Bouncer::in_front_of(postgres(), settings);
        let threads: Vec<_> = (0..8)
            .map(|n| {
                let port = bouncer.port;
                std::thread::spawn(move || {
                    let mut client = Client::log_in(port, "app", "app");
                    for m in 0..50 {
                        parse_in_one_batch(&mut client, &format!("SELECT 'client {n}, query {m}, ' || $1"));
                        bind_in_the_next(&mut client, &[b"value"]);
                        assert_eq!(value(&mut client), format!("client {n}, query {m}, value"));
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

/// Two clients that share one server.
fn two_clients(settings: &[&str]) -> (Bouncer, Client, Client) {
    let settings = [&["default_pool_size = 1"], settings].concat();
    let bouncer = Bouncer::in_front_of(postgres(), &settings);
    let (a, b) = (bouncer.client(), bouncer.client());
    (bouncer, a, b)
}

#[test]
fn an_unnamed_statement_is_reused_between_those_of_other_clients() {
    for mode in ["transaction", "statement"] {
        let (_bouncer, mut a, mut b) = two_clients(&[&format!("pool_mode = {mode}")]);
        parse_in_one_batch(&mut a, "SELECT 'a' || $1");
        parse_in_one_batch(&mut b, "SELECT 'b' || $1");
        for n in ["1", "2", "3"] {
            bind_in_the_next(&mut a, &[n.as_bytes()]);
            bind_in_the_next(&mut b, &[n.as_bytes()]);
            assert_eq!(value(&mut a), format!("a{n}"));
            assert_eq!(value(&mut b), format!("b{n}"));
        }
        a.send(&[raw::describe_statement(""), raw::sync()].concat());
        assert_eq!(tags(&a.until_ready()), "tTZ");
    }
}

#[test]
fn a_client_without_an_unnamed_statement_does_not_get_that_of_another() {
    let (_bouncer, mut a, mut b) = two_clients(&[]);
    parse_in_one_batch(&mut a, "SELECT 'a' || $1");
    bind_in_the_next(&mut b, &[b"?"]);
    let messages = b.until_ready();
    assert_eq!(messages[0].error().0, "26000");
    b.send(&[raw::describe_statement(""), raw::sync()].concat());
    assert_eq!(b.until_ready()[0].error().0, "26000");
    bind_in_the_next(&mut a, &[b"!"]);
    assert_eq!(value(&mut a), "a!");
    a.send(&[raw::close_statement(""), raw::sync()].concat());
    assert_eq!(tags(&a.until_ready()), "3Z");
    bind_in_the_next(&mut a, &[b"!"]);
    assert_eq!(a.until_ready()[0].error().0, "26000");
}

#[test]
fn a_skipped_query_does_not_give_a_client_the_statement_of_another() {
    let (_bouncer, mut a, mut b) = two_clients(&[]);
    parse_in_one_batch(&mut b, "SELECT 'b' || $1");
    // The query is part of a failed batch, so it does not run and the unnamed statement stays.
    let skipped = [raw::bind("", "no such statement", &[]), raw::query("SELECT 1"), raw::sync()].concat();
    a.send(&skipped);
    assert_eq!(tags(&a.until_ready()), "EZ");
    bind_in_the_next(&mut a, &[b"?"]);
    assert_eq!(a.until_ready()[0].error().0, "26000");
    // A query does not end the skipping, so the query after it does not run either.
    let skipped = [raw::execute(), raw::query("SELECT 1"), raw::query("SELECT 2"), raw::sync()].concat();
    let next = [raw::bind("", "", &[b"?"]), raw::execute(), raw::sync()].concat();
    a.send(&[skipped, next].concat());
    assert_eq!(tags(&a.until_ready()), "EZ");
    assert_eq!(a.until_ready()[0].error().0, "26000");
}

#[test]
fn a_failed_parse_drops_the_unnamed_statement_and_a_skipped_one_keeps_it() {
    let (_bouncer, mut a, mut b) = two_clients(&[]);
    parse_in_one_batch(&mut a, "SELECT 'old' || $1");
    // The Bind of a statement that does not exist fails, so the Parse after it is skipped.
    let bad = raw::bind("", "no such statement", &[]);
    a.send(&[bad, raw::parse("", "SELECT 'new' || $1"), raw::sync()].concat());
    assert_eq!(tags(&a.until_ready()), "EZ");
    assert_eq!(b.value("SELECT 1"), "1");
    bind_in_the_next(&mut a, &[b"!"]);
    assert_eq!(value(&mut a), "old!");
    a.send(&[raw::parse("", "SELEC"), raw::sync()].concat());
    assert_eq!(tags(&a.until_ready()), "EZ");
    bind_in_the_next(&mut a, &[b"!"]);
    assert_eq!(a.until_ready()[0].error().0, "26000");
}

#[test]
fn pipelined_batches_each_use_their_own_unnamed_statement() {
    let (_bouncer, mut a, mut b) = two_clients(&[]);
    parse_in_one_batch(&mut b, "SELECT 'b' || $1");
    let batch = |n: usize| {
        let sql = format!("SELECT 'batch {n}' || $1");
        [raw::parse("", &sql), raw::bind("", "", &[b"!"]), raw::execute(), raw::sync()].concat()
    };
    let again = [raw::bind("", "", &[b"?"]), raw::execute(), raw::sync()].concat();
    let failing =
        [raw::bind("", "no such statement", &[]), raw::parse("", "SELECT $1::text"), raw::sync()].concat();
    a.send(&[batch(1), again.clone(), batch(2), failing, again].concat());
    assert_eq!(value(&mut a), "batch 1!");
    assert_eq!(value(&mut a), "batch 1?");
    assert_eq!(value(&mut a), "batch 2!");
    assert_eq!(tags(&a.until_ready()), "EZ");
    assert_eq!(value(&mut a), "batch 2?");
    bind_in_the_next(&mut b, &[b"!"]);
    assert_eq!(value(&mut b), "b!");
}

#[test]
fn an_unnamed_statement_too_long_to_be_stored_keeps_its_server() {
    let (bouncer, mut a, _b) = two_clients(&["default_pool_size = 2"]);
    let long = format!("SELECT 'long' || $1 /* {} */", "x".repeat(400_000));
    parse_in_one_batch(&mut a, &long);
    let mut b = bouncer.client();
    parse_in_one_batch(&mut b, "SELECT 'b' || $1");
    bind_in_the_next(&mut a, &[b"!"]);
    assert_eq!(value(&mut a), "long!");
    let mut console = bouncer.console();
    assert!(console.column("SHOW SERVERS", "state").contains(&"active".to_owned()));
    parse_in_one_batch(&mut a, "SELECT 'short' || $1");
    assert!(console.column("SHOW SERVERS", "state").iter().all(|state| state == "idle"));
    bind_in_the_next(&mut a, &[b"!"]);
    assert_eq!(value(&mut a), "short!");
}

#[test]
fn in_session_pooling_an_earlier_error_does_not_close_the_unnamed_statement() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1", "pool_mode = session"]);
    let mut client = bouncer.client();
    // The pooler closes the server's unnamed statement before the Bind, in a batch that fails. The client's next
    // Parse is sent before that error arrives.
    let slow = [raw::query("SELECT pg_sleep(0.1)"), raw::query("SELECT 1")].concat();
    let failing = [raw::describe_statement("nowhere"), raw::bind("", "", &[]), raw::sync()].concat();
    let good =
        [raw::parse("", "COPY (SELECT 1) TO STDOUT"), raw::bind("", "", &[]), raw::execute(), raw::sync()];
    client.send(&[slow, failing, good.concat()].concat());
    let answers: Vec<_> = (0..4).map(|_| tags(&client.until_ready())).collect();
    assert_eq!(answers, ["TDCZ", "TDCZ", "EZ", "12HdcCZ"]);
    // A query that the server skips leaves the statement as it is.
    let skipped = [raw::describe_statement("nowhere"), raw::query("SELECT 1"), raw::sync()].concat();
    client.send(&[skipped, raw::bind("", "", &[]), raw::execute(), raw::sync()].concat());
    assert_eq!(tags(&client.until_ready()), "EZ");
    assert_eq!(tags(&client.until_ready()), "2HdcCZ");
}

#[test]
fn in_session_pooling_a_close_that_the_server_skips_leaves_the_unnamed_statement() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1", "pool_mode = session"]);
    let mut client = bouncer.client();
    let run = [raw::bind("", "", &[]), raw::execute(), raw::sync()].concat();
    client.send(&[raw::parse("", "COPY (SELECT 1) TO STDOUT"), run.clone()].concat());
    assert_eq!(tags(&client.until_ready()), "12HdcCZ");
    client.send(&[raw::describe_statement("nowhere"), raw::close_statement(""), raw::sync()].concat());
    assert_eq!(tags(&client.until_ready()), "EZ");
    client.send(&run);
    assert_eq!(tags(&client.until_ready()), "2HdcCZ");
    client.send(&[raw::close_statement(""), raw::sync()].concat());
    assert_eq!(tags(&client.until_ready()), "3Z");
    client.send(&run);
    assert_eq!(client.expect(b'E').error().0, "26000");
    client.expect(b'Z');
}
