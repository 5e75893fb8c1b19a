//! Named prepared statements in transaction pooling: shared, renamed, evicted, undone after errors.

use crate::support::raw::{self, Client, tags};
use crate::support::{Bouncer, postgres};

fn run(client: &mut Client, statement: &str, values: &[&[u8]]) -> String {
    client.send(&[raw::bind("", statement, values), raw::execute(), raw::sync()].concat());
    let messages = client.until_ready();
    let row = messages.iter().find(|message| message.tag == b'D');
    row.unwrap_or_else(|| panic!("no row: {}", tags(&messages))).row()[0].clone().unwrap()
}

fn prepare(client: &mut Client, name: &str, sql: &str) {
    client.send(&[raw::parse(name, sql), raw::sync()].concat());
    assert_eq!(tags(&client.until_ready()), "1Z");
}

#[test]
fn statements_are_prepared_on_any_server_their_client_uses() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 2"]);
    let mut client = bouncer.client();
    prepare(&mut client, "s1", "SELECT 'answer ' || $1::text");
    // The first server is busy from here on: the statement must be prepared on the second.
    let mut blocker = bouncer.client();
    blocker.query("BEGIN");
    assert_eq!(run(&mut client, "s1", &[b"one"]), "answer one");
    assert_eq!(run(&mut client, "s1", &[b"two"]), "answer two");
    client.send(&[raw::describe_statement("s1"), raw::sync()].concat());
    assert_eq!(tags(&client.until_ready()), "tTZ");
}

#[test]
fn equal_statements_of_different_clients_are_prepared_once_per_server() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    let mut a = bouncer.client();
    let mut b = bouncer.client();
    prepare(&mut a, "mine", "SELECT 1 + $1::int");
    prepare(&mut b, "yours", "SELECT 1 + $1::int");
    prepare(&mut b, "mine", "SELECT 'different'");
    assert_eq!(run(&mut a, "mine", &[b"1"]), "2");
    assert_eq!(run(&mut b, "yours", &[b"2"]), "3");
    assert_eq!(run(&mut b, "mine", &[]), "different");
    assert_eq!(a.value("SELECT count(*) FROM pg_prepared_statements"), "2");
    assert_eq!(bouncer.show("STATS", "total_client_parse_count")[0], "3");
    assert_eq!(bouncer.show("STATS", "total_server_parse_count")[0], "2");
}

#[test]
fn the_least_recently_used_statement_is_evicted_and_prepared_again() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1", "max_prepared_statements = 2"]);
    let mut client = bouncer.client();
    for n in 1..=5 {
        prepare(&mut client, &format!("s{n}"), &format!("SELECT {n}"));
    }
    assert_eq!(client.value("SELECT count(*) FROM pg_prepared_statements"), "2");
    for n in [1, 5, 3, 1, 2] {
        assert_eq!(run(&mut client, &format!("s{n}"), &[]), n.to_string());
    }
    assert_eq!(client.value("SELECT count(*) FROM pg_prepared_statements"), "2");
}

#[test]
fn a_reduced_limit_closes_as_many_statements_as_necessary() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1", "max_prepared_statements = 6"]);
    let mut client = bouncer.client();
    for n in 1..=6 {
        prepare(&mut client, &format!("s{n}"), &format!("SELECT {n}"));
    }
    let count = "SELECT count(*) FROM pg_prepared_statements";
    assert_eq!(client.value(count), "6");
    bouncer.console().query("SET max_prepared_statements = 2");
    prepare(&mut client, "s7", "SELECT 7");
    assert_eq!(client.value(count), "2");
    for n in [1, 7, 6, 2] {
        assert_eq!(run(&mut client, &format!("s{n}"), &[]), n.to_string());
    }
    assert_eq!(client.value(count), "2");
}

#[test]
fn a_failed_parse_defines_no_statement() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    let mut client = bouncer.client();
    client.send(&[raw::parse("bad", "SELECT nonsense here"), raw::sync()].concat());
    assert_eq!(tags(&client.until_ready()), "EZ");
    client.send(&[raw::bind("", "bad", &[]), raw::execute(), raw::sync()].concat());
    let messages = client.until_ready();
    assert_eq!(messages[0].error().0, "26000");
    assert_eq!(tags(&messages), "EZ");
    prepare(&mut client, "bad", "SELECT 'good now'");
    assert_eq!(run(&mut client, "bad", &[]), "good now");
}

#[test]
fn statements_after_an_error_in_the_same_batch_are_not_defined() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    let mut client = bouncer.client();
    let batch = [
        raw::parse("first", "SELECT 'first'"),
        raw::parse("broken", "SELECT 1 FROM"),
        raw::parse("after", "SELECT 'after'"),
        raw::sync(),
    ]
    .concat();
    client.send(&batch);
    assert_eq!(tags(&client.until_ready()), "1EZ");
    assert_eq!(run(&mut client, "first", &[]), "first");
    prepare(&mut client, "after", "SELECT 'after'");
    assert_eq!(run(&mut client, "after", &[]), "after");
}

#[test]
fn an_unknown_statement_is_an_error_and_not_a_disconnect() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    let mut client = bouncer.client();
    prepare(&mut client, "known", "SELECT 1");
    client.query("BEGIN");
    client.send(&[raw::bind("", "unknown", &[]), raw::execute(), raw::sync()].concat());
    let messages = client.until_ready();
    assert_eq!(messages[0].error().0, "26000");
    // The transaction has failed, as without a pooler.
    assert_eq!(messages.last().unwrap().bytes[5], b'E');
    assert_eq!(tags(&client.query("ROLLBACK")), "CZ");
    assert_eq!(run(&mut client, "known", &[]), "1");
}

#[test]
fn close_is_answered_in_order_and_removes_the_clients_name_only() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    let mut client = bouncer.client();
    prepare(&mut client, "s", "SELECT 1");
    let batch = [
        raw::bind("", "s", &[]),
        raw::execute(),
        raw::close_statement("s"),
        raw::parse("s", "SELECT 2"),
        raw::bind("", "s", &[]),
        raw::execute(),
        raw::sync(),
    ]
    .concat();
    client.send(&batch);
    let messages = client.until_ready();
    assert_eq!(tags(&messages), "2DC312DCZ");
    client.send(&[raw::close_statement("never"), raw::sync()].concat());
    assert_eq!(tags(&client.until_ready()), "3Z");
    client.send(&[raw::close_statement("s"), raw::bind("", "s", &[]), raw::sync()].concat());
    assert_eq!(tags(&client.until_ready()), "3EZ");
}

#[test]
fn a_name_used_twice_is_refused_by_the_server() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    let mut client = bouncer.client();
    prepare(&mut client, "s", "SELECT 1");
    client.send(&[raw::parse("s", "SELECT 2"), raw::sync()].concat());
    let messages = client.until_ready();
    assert_eq!(messages[0].error().0, "42P05");
    assert_eq!(run(&mut client, "s", &[]), "1");
    bouncer.wait_for_line("prepared statement 's' was already prepared");
}

#[test]
fn only_binds_of_named_statements_that_are_tracked_are_counted() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    let mut client = bouncer.client();
    let unnamed = [raw::parse("", "SELECT 0"), raw::bind("", "", &[]), raw::execute(), raw::sync()].concat();
    client.send(&unnamed);
    client.until_ready();
    prepare(&mut client, "s", "SELECT 1");
    assert_eq!(run(&mut client, "s", &[]), "1");
    assert_eq!(bouncer.show("STATS", "total_bind_count")[0], "1");
    bouncer.console().query("SET max_prepared_statements = 0");
    let mut untracked = bouncer.client();
    prepare(&mut untracked, "t", "SELECT 2");
    assert_eq!(run(&mut untracked, "t", &[]), "2");
    assert_eq!(bouncer.show("STATS", "total_bind_count")[0], "1");
}

#[test]
fn a_statement_name_of_64_kib_is_usable() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    let mut client = bouncer.client();
    let (longest, longer) = ("n".repeat(65_536), "n".repeat(65_537));
    prepare(&mut client, &longest, "SELECT $1::text");
    assert_eq!(run(&mut client, &longest, &[b"abc"]), "abc");
    client.send(&[raw::describe_statement(&longest), raw::close_statement(&longest), raw::sync()].concat());
    assert_eq!(tags(&client.until_ready()), "tT3Z");
    client.send(&[raw::parse(&longer, "SELECT 1"), raw::sync()].concat());
    assert_eq!(client.until_end().last().unwrap().error().0, "08P01");
}

#[test]
fn an_unnamed_statement_is_not_made_a_named_one() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    let mut client = bouncer.client();
    prepare(&mut client, "named", "SELECT 'named'");
    let batch =
        [raw::parse("", "SELECT 'unnamed'"), raw::bind("", "", &[]), raw::execute(), raw::sync()].concat();
    client.send(&batch);
    assert_eq!(tags(&client.until_ready()), "12DCZ");
    assert_eq!(client.value("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''"), "1");
}

#[test]
fn a_large_bind_streams() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    let mut client = bouncer.client();
    prepare(&mut client, "len", "SELECT length($1::text)");
    let value = vec![b'z'; 5_000_000];
    assert_eq!(run(&mut client, "len", &[&value]), "5000000");
    assert_eq!(run(&mut client, "len", &[b"abc"]), "3");
}

#[test]
fn deallocate_all_and_discard_all_are_noticed() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    let mut client = bouncer.client();
    let mut other = bouncer.client();
    for sql in ["DEALLOCATE ALL", "DISCARD ALL"] {
        prepare(&mut client, "s", "SELECT 1");
        prepare(&mut other, "o", "SELECT 1");
        client.query(sql);
        client.send(&[raw::bind("", "s", &[]), raw::sync()].concat());
        assert_eq!(client.until_ready()[0].error().0, "26000", "{sql}");
        assert_eq!(run(&mut other, "o", &[]), "1", "{sql}");
        other.send(&[raw::close_statement("o"), raw::sync()].concat());
        other.until_ready();
    }
}

#[test]
fn statements_work_across_splits_at_every_byte() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    let mut client = bouncer.client();
    let batch = [
        raw::parse("split", "SELECT $1::text"),
        raw::describe_statement("split"),
        raw::bind("", "split", &[b"value"]),
        raw::execute(),
        raw::close_statement("split"),
        raw::sync(),
    ]
    .concat();
    for at in 1..batch.len() {
        client.send(&batch[..at]);
        std::thread::yield_now();
        client.send(&batch[at..]);
        assert_eq!(tags(&client.until_ready()), "1tT2DC3Z", "split at {at}");
    }
}

#[test]
fn a_statement_skipped_in_one_batch_is_prepared_for_the_next() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 2"]);
    let mut client = bouncer.client();
    prepare(&mut client, "s1", "SELECT 'one'");
    let mut blocker = bouncer.client();
    blocker.query("BEGIN");
    // The other server lacks s1; the first batch fails before s1 is prepared there, so the second must prepare it.
    let pipeline = [
        raw::parse("", "SELECT nonsense FROM"),
        raw::bind("", "s1", &[]),
        raw::sync(),
        raw::bind("", "s1", &[]),
        raw::execute(),
        raw::sync(),
    ];
    client.send(&pipeline.concat());
    assert_eq!(tags(&client.until_ready()), "EZ");
    assert_eq!(tags(&client.until_ready()), "2DCZ");
}

#[test]
fn discard_all_pipelined_with_a_parse_leaves_the_statement_usable() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    let mut client = bouncer.client();
    for round in 0..3 {
        let pipeline = [raw::query("DISCARD ALL"), raw::parse("_p1", "SELECT 'p1'"), raw::sync()];
        client.send(&pipeline.concat());
        assert_eq!(tags(&client.until_ready()), "CZ", "round {round}");
        assert_eq!(tags(&client.until_ready()), "1Z", "round {round}");
        assert_eq!(run(&mut client, "_p1", &[]), "p1");
    }
    let mut other = bouncer.client();
    prepare(&mut other, "mine", "SELECT 'p1'");
    assert_eq!(run(&mut other, "mine", &[]), "p1");
}

#[test]
fn a_synthetic_answer_is_in_order_between_those_of_the_server() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    let mut client = bouncer.client();
    prepare(&mut client, "known", "SELECT 0");
    let batch = [
        raw::parse("", "SELECT generate_series(1, 3)"),
        raw::bind("", "", &[]),
        raw::execute(),
        raw::close_statement("known"),
        raw::execute(),
        raw::bind("", "", &[]),
        raw::execute(),
        raw::sync(),
    ];
    client.send(&batch.concat());
    assert_eq!(tags(&client.until_ready()), "12DDDC3C2DDDCZ");
}

#[test]
fn the_pooler_stops_reading_from_a_client_that_does_not_read_synthetic_answers() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    let mut client = bouncer.client();
    prepare(&mut client, "s", "SELECT 1");
    let again = [raw::close_statement("s"), raw::parse("s", "SELECT 1")].concat().repeat(2000);
    client.stream.set_write_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
    let mut refused = false;
    for _ in 0..2000 {
        if std::io::Write::write_all(&mut client.stream, &again).is_err() {
            refused = true;
            break;
        }
    }
    assert!(refused, "the pooler read everything");
    assert_eq!(bouncer.show("VERSION", "version").len(), 1);
}

#[test]
fn an_oversized_name_in_a_describe_is_refused_before_it_is_stored() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut client = bouncer.client();
    client.send(&[&b"D\x3f\xff\xff\xffS"[..], &[b'x'; 80_000]].concat());
    assert_eq!(client.until_end().last().unwrap().error().0, "08P01");
}
