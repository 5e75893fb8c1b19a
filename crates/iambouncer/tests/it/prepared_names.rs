//! Prepared statements of the protocol that simple queries name, as drivers and people do: they are the client's, on every
//! server.

use crate::support::raw::{self, Client, tags};
use crate::support::{Bouncer, postgres};

fn setup(settings: &[&str]) -> (Bouncer, Client) {
    let bouncer = Bouncer::in_front_of(
        postgres(),
        &[&["default_pool_size = 2", "server_round_robin = 1"], settings].concat(),
    );
    // Both servers are open.
    let mut clients = [bouncer.client(), bouncer.client()];
    clients.iter_mut().for_each(|client| drop(client.query("BEGIN")));
    let mut client = bouncer.client();
    drop(clients);
    client.send(&[raw::parse("Mine", "SELECT $1::int + 1"), raw::sync()].concat());
    assert_eq!(tags(&client.until_ready()), "1Z");
    (bouncer, client)
}

fn code(messages: &[raw::Message]) -> String {
    messages.iter().find(|message| message.tag == b'E').map(|error| error.error().0).unwrap_or_default()
}

#[test]
fn deallocate_drops_the_clients_statement_of_the_protocol() {
    for state in ["session_state = pgbouncer", "session_state = follow"] {
        let (bouncer, mut a) = setup(&[state]);
        let mut b = bouncer.client();
        b.send(&[raw::parse("Mine", "SELECT $1::int + 1"), raw::sync()].concat());
        b.until_ready();
        let messages = a.query("DEALLOCATE \"Mine\"");
        assert_eq!((tags(&messages).as_str(), messages[0].command_tag().as_str()), ("CZ", "DEALLOCATE"));
        assert_eq!(code(&a.query("DEALLOCATE \"Mine\"")), "26000");
        a.send(&[raw::bind("", "Mine", &[b"1"]), raw::sync()].concat());
        assert_eq!(code(&a.until_ready()), "26000");
        // The name is free, also in a transaction; another client's statement of this name exists.
        a.query("BEGIN");
        for _ in 0..2 {
            a.send(&[raw::parse("Mine", "SELECT 5"), raw::sync()].concat());
            assert_eq!(tags(&a.until_ready()), "1Z");
            let messages = a.query("deallocate prepare \"Mine\";");
            assert_eq!((tags(&messages).as_str(), messages[1].bytes[5]), ("CZ", b'T'));
        }
        a.query("SELECT 1/0");
        assert_eq!(code(&a.query("DEALLOCATE \"Mine\"")), "25P02");
        a.query("ROLLBACK");
        b.send(&[raw::bind("", "Mine", &[b"1"]), raw::execute(), raw::sync()].concat());
        assert_eq!(tags(&b.until_ready()), "2DCZ");
        // Names are in lower case without quotes.
        assert_eq!(code(&b.query("DEALLOCATE Mine")), "26000");
        // Behind an unanswered batch.
        b.send(&[raw::parse("late", "SELECT 1"), raw::sync(), raw::query("DEALLOCATE late")].concat());
        assert_eq!((tags(&b.until_ready()), tags(&b.until_ready())), ("1Z".into(), "CZ".into()));
        assert!(bouncer.show("PINS", "reasons").is_empty());
    }
}

#[test]
fn execute_and_explain_use_the_clients_statement_of_the_protocol() {
    for state in ["session_state = pgbouncer", "session_state = follow"] {
        let (bouncer, mut a) = setup(&[state]);
        for _ in 0..4 {
            assert_eq!(a.value("EXECUTE \"Mine\" (41)"), "42");
            assert!(a.value("EXPLAIN (COSTS off) EXECUTE \"Mine\" (1);").starts_with("Result"));
        }
        let error = a.query("EXECUTE \"Mine\"");
        let text = error[0].error().1;
        assert!(text.contains("\"Mine\"") && !text.contains("iamb_"), "{text}");
        assert_eq!(code(&a.query("EXECUTE mine (41)")), "26000");
        a.query("BEGIN");
        assert_eq!(a.value("execute \"Mine\" (1)"), "2");
        a.query("COMMIT");
        assert!(bouncer.show("PINS", "reasons").is_empty());
    }
}

#[test]
fn what_an_executed_statement_changes_follows_the_client() {
    let (bouncer, mut a) = setup(&["session_state = follow"]);
    a.send(&[raw::parse("s", "SELECT set_config('app.named', $1, false)"), raw::sync()].concat());
    a.until_ready();
    a.value("EXECUTE s ('x')");
    for _ in 0..3 {
        assert_eq!(a.value("SELECT current_setting('app.named', true)"), "x");
        assert_eq!(bouncer.client().value("SELECT coalesce(current_setting('app.named', true), '')"), "");
    }
}

#[test]
fn a_name_is_known_behind_a_batch_without_sync() {
    let (_bouncer, mut a) = setup(&["session_state = follow"]);
    for query in ["EXECUTE foo", "DEALLOCATE foo"] {
        if query == "EXECUTE foo" {
            a.send(&[raw::parse("foo", "SELECT 7"), raw::describe_statement("foo"), raw::flush()].concat());
            assert_eq!([a.expect(b'1').tag, a.expect(b't').tag, a.expect(b'T').tag], *b"1tT");
        } else {
            a.send(&[raw::describe_statement("foo"), raw::flush()].concat());
            assert_eq!([a.expect(b't').tag, a.expect(b'T').tag], *b"tT");
        }
        assert_eq!(code(&a.query(query)), "", "{query}");
    }
}

#[test]
fn arguments_of_execute_are_examined_like_other_statements() {
    let (bouncer, mut a) = setup(&["session_state = follow"]);
    a.send(&[raw::parse("s", "SELECT $1::text"), raw::sync()].concat());
    a.until_ready();
    a.value("EXECUTE s(set_config('app.argument', 'x', false))");
    for _ in 0..3 {
        assert_eq!(a.value("SELECT current_setting('app.argument', true)"), "x");
        assert_eq!(bouncer.client().value("SELECT coalesce(current_setting('app.argument', true), '')"), "");
    }
    a.value("EXECUTE s(pg_advisory_lock(8)::text)");
    assert_eq!(bouncer.show("PINS", "reasons"), ["advisory_lock"]);
}

#[test]
fn a_statement_that_would_keep_its_server_is_refused_under_its_name_too() {
    let (bouncer, mut a) = setup(&["session_state = follow", "pin = error"]);
    a.send(&[raw::parse("s", "SELECT pg_advisory_lock($1)"), raw::sync()].concat());
    a.until_ready();
    for query in
        ["EXECUTE s(1)", "EXPLAIN ANALYZE EXECUTE s(1)", "EXECUTE \"Mine\" (pg_advisory_lock(1)::text::int)"]
    {
        assert_eq!(code(&a.query(query)), "0A000", "{query}");
    }
    assert_eq!(a.value("EXECUTE \"Mine\" (1)"), "2");
    assert!(bouncer.show("PINS", "reasons").is_empty());
}

#[test]
fn a_prepared_statement_that_executes_another_one_runs_on_every_server() {
    for state in ["session_state = pgbouncer", "session_state = follow"] {
        let (bouncer, mut client) = setup(&[state]);
        // As sqlx does for the nullability of columns.
        let texts = ["EXPLAIN (VERBOSE, FORMAT JSON) EXECUTE \"Mine\"(NULL)", "EXECUTE \"Mine\" (4)"];
        for (name, sql) in ["explain", "run"].into_iter().zip(texts) {
            client.send(&[raw::parse(name, sql), raw::describe_statement(name), raw::sync()].concat());
            assert_eq!(tags(&client.until_ready()), "1tTZ", "{state} {sql}");
        }
        let (mut pids, mut blocking) = (std::collections::BTreeSet::new(), bouncer.client());
        for _ in 0..6 {
            // One of the two servers.
            blocking.query("BEGIN");
            client.send(&[raw::bind("", "explain", &[]), raw::execute(), raw::sync()].concat());
            assert_eq!(tags(&client.until_ready()), "2DCZ", "{state}");
            client.send(&[raw::bind("", "run", &[]), raw::execute(), raw::sync()].concat());
            let messages = client.until_ready();
            assert_eq!(
                messages.iter().find(|message| message.tag == b'D').unwrap().row()[0],
                Some("5".into())
            );
            client.send(&[raw::describe_statement("run"), raw::sync()].concat());
            assert_eq!(tags(&client.until_ready()), "tTZ", "{state}");
            pids.insert(client.value("SELECT pg_backend_pid()"));
            blocking.query("COMMIT");
        }
        assert_eq!(pids.len(), 2, "{state}");
        // The name is another client's own.
        let mut other = bouncer.client();
        other.send(
            &[
                raw::parse("run", "EXECUTE \"Mine\" (4)"),
                raw::bind("", "run", &[]),
                raw::execute(),
                raw::sync(),
            ]
            .concat(),
        );
        assert_eq!(code(&other.until_ready()), "26000", "{state}");
        assert!(bouncer.show("PINS", "reasons").is_empty());
    }
}

#[test]
fn what_an_executed_statement_changes_follows_its_client() {
    let (bouncer, mut client) = setup(&["session_state = follow"]);
    client.send(&[raw::parse("set", "SELECT set_config('app.tenant', $1, false)"), raw::sync()].concat());
    client.until_ready();
    client.send(
        &[raw::parse("run", "EXECUTE set('mine')"), raw::bind("", "run", &[]), raw::execute(), raw::sync()]
            .concat(),
    );
    assert_eq!(code(&client.until_ready()), "");
    for _ in 0..4 {
        assert_eq!(client.value("SELECT current_setting('app.tenant', true)"), "mine");
        assert_eq!(bouncer.client().value("SELECT coalesce(current_setting('app.tenant', true), '')"), "");
    }
}

#[test]
fn a_server_without_the_executed_statement_describes_the_result_of_the_executing_one() {
    let (bouncer, mut client) = setup(&["session_state = follow"]);
    let mut blocking = bouncer.client();
    for round in 0..6 {
        let (one, other) = (format!("one{round}"), format!("other{round}"));
        let parse_one = raw::parse(&one, &format!("SELECT {round} AS a"));
        let parse_other = raw::parse(&other, &format!("EXECUTE {one}"));
        client.send(&[parse_one, parse_other, raw::describe_statement(&other), raw::sync()].concat());
        assert_eq!(tags(&client.until_ready()), "11tTZ");
        for _ in 0..2 {
            // The other server is used, which has neither.
            blocking.query("BEGIN");
            client.send(&[raw::bind("", &other, &[]), raw::execute(), raw::sync()].concat());
            assert_eq!(tags(&client.until_ready()), "2DCZ", "{round}");
            client.send(&[raw::describe_statement(&other), raw::sync()].concat());
            assert_eq!(tags(&client.until_ready()), "tTZ", "{round}");
            blocking.query("COMMIT");
        }
    }
}

#[test]
fn a_name_on_servers_is_not_that_of_another_clients_statement() {
    let (_bouncer, mut client) = setup(&[]);
    client.send(
        &[raw::parse("explain", "EXECUTE \"Mine\" (1)"), raw::bind("", "explain", &[]), raw::sync()].concat(),
    );
    assert_eq!(code(&client.until_ready()), "");
    for id in 1..40 {
        let (name, sql) = (format!("guess{id}"), format!("EXECUTE iamb_{id} (1)"));
        client.send(
            &[raw::parse(&name, &sql), raw::bind("", &name, &[]), raw::execute(), raw::sync()].concat(),
        );
        let messages = client.until_ready();
        let error = messages.iter().find(|message| message.tag == b'E').expect("an error").error();
        assert_eq!(error, ("26000".to_owned(), format!("prepared statement \"iamb_{id}\" does not exist")));
    }
}

#[test]
fn a_chain_of_statements_that_execute_each_other_ends() {
    let (_bouncer, mut client) = setup(&["session_state = follow"]);
    client
        .send(&[raw::parse("a", "EXECUTE \"Mine\" (1)"), raw::parse("b", "EXECUTE a"), raw::sync()].concat());
    assert_eq!(tags(&client.until_ready()), "11Z");
    client.send(&[raw::bind("", "b", &[]), raw::execute(), raw::sync()].concat());
    assert_eq!(code(&client.until_ready()), "26000");
    client.send(&[raw::bind("", "a", &[]), raw::execute(), raw::sync()].concat());
    assert_eq!(tags(&client.until_ready()), "2DCZ");
}
