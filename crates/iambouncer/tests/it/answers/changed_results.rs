//! Statements whose result has changed since it was described to the client: it never receives rows of other columns than it
//! expects, whichever server executes the statement. As on a direct connection it receives an error, and prepares the
//! statement again.

use crate::support::raw::{self, Client, Message, tags};
use crate::support::{Bouncer, postgres};

const CHANGED: &str = "cached plan must not change result type";

fn setup(name: &str, settings: &[&str]) -> Bouncer {
    let sql = format!(
        "DROP TABLE IF EXISTS {name}; CREATE TABLE {name} (a int, b int); INSERT INTO {name} VALUES (1, 2);
         ALTER TABLE {name} OWNER TO app"
    );
    postgres().sql_in("app", &sql).unwrap();
    Bouncer::in_front_of(
        postgres(),
        &[&["default_pool_size = 3", "server_round_robin = 1"], settings].concat(),
    )
}

fn change(name: &str) {
    postgres().sql_in("app", &format!("ALTER TABLE {name} ALTER COLUMN b TYPE bigint")).unwrap();
}

/// Prepares and describes a statement, as drivers do once.
fn describe(client: &mut Client, name: &str, sql: &str) {
    client.send(&[raw::parse(name, sql), raw::describe_statement(name), raw::sync()].concat());
    assert_eq!(tags(&client.until_ready()), "1tTZ");
}

/// Executes it without describing it, as drivers do then.
fn execute(client: &mut Client, name: &str) -> Vec<Message> {
    client.send(&[raw::bind("", name, &[]), raw::execute(), raw::sync()].concat());
    client.until_ready()
}

/// Makes the pooler open all servers of the pool, so that the client gets one that does not have its statements.
fn use_all_servers(bouncer: &Bouncer) {
    let mut clients: Vec<Client> = (0..3).map(|_| bouncer.client()).collect();
    clients.iter_mut().for_each(|client| drop(client.query("BEGIN")));
    clients.iter_mut().for_each(|client| drop(client.query("COMMIT")));
}

fn assert_changed(messages: &[Message]) {
    assert_eq!(tags(messages), "EZ");
    let error = &messages[0];
    assert_eq!(error.error(), ("0A000".to_owned(), CHANGED.to_owned()));
    // pgjdbc and asyncpg prepare the statement again only if they find the name of this function.
    assert!(error.bytes.windows(23).any(|part| part == b"RRevalidateCachedQuery\0"));
}

#[test]
fn a_client_never_receives_other_columns_than_were_described_to_it() {
    let bouncer = setup("changed_columns", &[]);
    use_all_servers(&bouncer);
    let mut a = bouncer.client();
    let sql = "SELECT * FROM changed_columns";
    describe(&mut a, "s", sql);
    for _ in 0..6 {
        assert_eq!(tags(&execute(&mut a, "s")), "2DCZ");
    }
    change("changed_columns");
    // On servers that have the statement, and, as they are opened again, on others.
    for round in 0..6 {
        if round == 3 {
            bouncer.console().query("RECONNECT app");
        }
        assert_changed(&execute(&mut a, "s"));
    }
    describe(&mut a, "t", sql);
    for _ in 0..6 {
        assert_eq!(tags(&execute(&mut a, "t")), "2DCZ");
        assert_changed(&execute(&mut a, "s"));
    }
    // A client that describes it again knows.
    a.send(&[raw::describe_statement("s"), raw::sync()].concat());
    assert_eq!(tags(&a.until_ready()), "tTZ");
    assert_eq!(tags(&execute(&mut a, "s")), "2DCZ");
}

#[test]
fn an_older_copy_of_a_statement_is_prepared_again_in_a_transaction() {
    let bouncer = setup("changed_copy", &[]);
    use_all_servers(&bouncer);
    let sql = "SELECT * FROM changed_copy";
    let mut old = bouncer.client();
    describe(&mut old, "s", sql);
    for _ in 0..4 {
        assert_eq!(tags(&execute(&mut old, "s")), "2DCZ");
    }
    postgres()
        .sql_in(
            "app",
            "DROP TABLE changed_copy; CREATE TABLE changed_copy (a int, b text); INSERT INTO changed_copy VALUES (1, 'x'); ALTER TABLE changed_copy OWNER TO app",
        )
        .unwrap();
    let mut new = bouncer.client();
    // What others do not notice: the copy on one server is outdated.
    new.send(&[raw::parse("s", sql), raw::describe_statement("s"), raw::sync()].concat());
    let described = tags(&new.until_ready());
    if described == "1tTZ" {
        for _ in 0..4 {
            new.query("BEGIN");
            let outcome = execute(&mut new, "s");
            let is_outdated = tags(&outcome) == "EZ";
            new.query("ROLLBACK");
            if is_outdated {
                assert_changed(&outcome);
                describe(&mut new, "again", sql);
                new.query("BEGIN");
                assert_eq!(tags(&execute(&mut new, "again")), "2DCZ");
                new.query("COMMIT");
            }
        }
    }
    assert_changed(&execute(&mut old, "s"));
}

#[test]
fn a_refused_bind_fails_its_transaction_and_only_its_batch() {
    let bouncer = setup("changed_batch", &[]);
    use_all_servers(&bouncer);
    let mut a = bouncer.client();
    describe(&mut a, "s", "SELECT * FROM changed_batch");
    change("changed_batch");
    a.query("BEGIN");
    assert_changed(&execute(&mut a, "s"));
    assert_eq!(execute(&mut a, "s")[0].error().0, "25P02");
    a.query("ROLLBACK");
    let good = [raw::parse("", "SELECT 1"), raw::bind("", "", &[]), raw::execute(), raw::sync()].concat();
    let bad = [raw::bind("", "s", &[]), raw::execute(), raw::sync()].concat();
    a.send(&[&good[..], &bad, &good].concat());
    assert_eq!(tags(&a.until_ready()), "12DCZ");
    assert_changed(&a.until_ready());
    assert_eq!(tags(&a.until_ready()), "12DCZ");
}

#[test]
fn a_client_that_describes_each_portal_receives_the_new_columns() {
    let bouncer = setup("changed_portal", &[]);
    use_all_servers(&bouncer);
    let mut a = bouncer.client();
    let run = |a: &mut Client| {
        a.send(&[raw::bind("", "s", &[]), raw::describe_portal(), raw::execute(), raw::sync()].concat());
        tags(&a.until_ready())
    };
    a.send(&[raw::parse("s", "SELECT * FROM changed_portal"), raw::sync()].concat());
    assert_eq!(tags(&a.until_ready()), "1Z");
    assert_eq!(run(&mut a), "2TDCZ");
    change("changed_portal");
    for _ in 0..6 {
        assert_eq!(run(&mut a), "2TDCZ");
    }
}

#[test]
fn a_portal_that_was_described_once_counts_too() {
    let bouncer = setup("changed_once", &[]);
    use_all_servers(&bouncer);
    let mut a = bouncer.client();
    let first = [
        raw::parse("s", "SELECT * FROM changed_once"),
        raw::bind("", "s", &[]),
        raw::describe_portal(),
        raw::execute(),
        raw::sync(),
    ];
    a.send(&first.concat());
    assert_eq!(tags(&a.until_ready()), "12TDCZ");
    for _ in 0..4 {
        assert_eq!(tags(&execute(&mut a, "s")), "2DCZ");
    }
    change("changed_once");
    for _ in 0..4 {
        assert_changed(&execute(&mut a, "s"));
    }
}

#[test]
fn types_of_parameters_are_compared_too() {
    let bouncer = setup("changed_parameters", &[]);
    use_all_servers(&bouncer);
    let mut a = bouncer.client();
    a.send(
        &[
            raw::parse("s", "INSERT INTO changed_parameters (b) VALUES ($1)"),
            raw::describe_statement("s"),
            raw::sync(),
        ]
        .concat(),
    );
    assert_eq!(tags(&a.until_ready()), "1tnZ");
    postgres().sql_in("app", "ALTER TABLE changed_parameters ALTER COLUMN b TYPE text").unwrap();
    let mut outcomes = Vec::new();
    for _ in 0..6 {
        a.send(&[raw::bind("", "s", &[b"5"]), raw::execute(), raw::sync()].concat());
        outcomes.push(tags(&a.until_ready()));
    }
    // The server that has it keeps the type, as on a direct connection; on others it would be another one.
    assert!(outcomes.iter().all(|tags| tags == "2CZ" || tags == "EZ"), "{outcomes:?}");
    assert!(outcomes.contains(&"EZ".to_owned()), "{outcomes:?}");
}

/// One server, on which another client has seen the statement fail and be prepared again.
#[test]
fn a_comparison_in_two_steps_is_answered() {
    let bouncer = setup("changed_steps", &["default_pool_size = 1"]);
    let sql = "SELECT * FROM changed_steps";
    let (mut a, mut c) = (bouncer.client(), bouncer.client());
    describe(&mut a, "s", sql);
    let portal = [raw::bind("", "s", &[]), raw::describe_portal(), raw::execute(), raw::sync()].concat();
    c.send(&[raw::parse("s", sql), portal.clone()].concat());
    assert_eq!(tags(&c.until_ready()), "12TDCZ");
    change("changed_steps");
    for _ in 0..3 {
        c.send(&portal);
        assert_eq!(tags(&c.until_ready()), "2TDCZ");
        assert_changed(&execute(&mut a, "s"));
    }
}

#[test]
fn a_statement_that_was_dropped_unseen_is_compared_after_it_is_prepared_again() {
    let bouncer = setup("changed_dropped", &["default_pool_size = 1"]);
    let (mut a, mut b) = (bouncer.client(), bouncer.client());
    describe(&mut a, "s", "SELECT * FROM changed_dropped");
    for _ in 0..3 {
        b.query("DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$");
        assert_eq!(tags(&execute(&mut a, "s")), "2DCZ");
    }
    b.query("DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$");
    assert_eq!(tags(&execute(&mut a, "s")), "2DCZ");
    // In a transaction the error has failed it; afterwards the server has the statement again.
    b.query("DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$");
    a.query("BEGIN");
    assert_eq!(execute(&mut a, "s")[0].error().0, "26000");
    a.query("ROLLBACK");
    assert_eq!(tags(&execute(&mut a, "s")), "2DCZ");
}

#[test]
fn a_failed_describe_leaves_nothing_for_the_next_description() {
    let bouncer = setup("changed_failed", &["default_pool_size = 1"]);
    let mut a = bouncer.client();
    a.send(
        &[
            raw::parse("old", "SELECT * FROM changed_failed WHERE a = $1"),
            raw::describe_statement("old"),
            raw::sync(),
        ]
        .concat(),
    );
    assert_eq!(tags(&a.until_ready()), "1tTZ");
    let sql = "SELECT 1, $1::text";
    a.send(&[raw::parse("new", sql), raw::sync()].concat());
    a.until_ready();
    change("changed_failed");
    a.send(&[raw::describe_statement("old"), raw::sync()].concat());
    a.until_ready();
    let portal = [raw::bind("", "new", &[b"x"]), raw::describe_portal(), raw::execute(), raw::sync()];
    a.send(&portal.concat());
    assert_eq!(tags(&a.until_ready()), "2TDCZ");
    bouncer.console().query("RECONNECT app");
    for _ in 0..3 {
        a.send(&[raw::bind("", "new", &[b"x"]), raw::execute(), raw::sync()].concat());
        assert_eq!(tags(&a.until_ready()), "2DCZ");
    }
}
