//! Statements that the server has dropped, or can no longer use, without the pooler noticing: a client sees
//! no error that a direct connection would not report.

use crate::support::raw::{self, Client, tags};
use crate::support::{Bouncer, postgres};

fn setup(name: &str) -> Bouncer {
    postgres()
        .sql_in(
            "app",
            &format!(
                "DROP TABLE IF EXISTS {name}; CREATE TABLE {name} (n int, t text); INSERT INTO {name} VALUES (1, 'one');
                 ALTER TABLE {name} OWNER TO app; GRANT CREATE ON SCHEMA public TO app"
            ),
        )
        .unwrap();
    Bouncer::in_front_of(postgres(), &["default_pool_size = 1"])
}

fn prepare(client: &mut Client, name: &str, sql: &str) {
    client.send(&[raw::parse(name, sql), raw::sync()].concat());
    assert_eq!(tags(&client.until_ready()), "1Z");
}

fn run(client: &mut Client, name: &str, values: &[&[u8]]) -> String {
    client.send(&[raw::bind("", name, values), raw::execute(), raw::sync()].concat());
    let messages = client.until_ready();
    match messages.iter().find(|message| message.tag == b'E') {
        Some(error) => format!("{:?}", error.error()),
        None => tags(&messages),
    }
}

const HIDDEN: [&str; 4] = [
    "DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$",
    "SELECT 1; DEALLOCATE ALL",
    "SELECT 1; SELECT 2; DEALLOCATE ALL; SELECT 1/0",
    "DISCARD ALL",
];

#[test]
fn an_unnoticed_deallocate_all_affects_no_other_client() {
    let bouncer = setup("stale_hidden");
    let (mut a, mut b) = (bouncer.client(), bouncer.client());
    for sql in HIDDEN {
        for name in ["one", "two"] {
            prepare(&mut a, name, &format!("SELECT '{name}' || $1"));
            assert_eq!(run(&mut a, name, &[b"!"]), "2DCZ");
        }
        b.query(sql);
        for name in ["one", "two", "one"] {
            assert_eq!(run(&mut a, name, &[b"!"]), "2DCZ", "{name} after {sql}");
        }
        b.query(sql);
        // Many drivers send a Describe first.
        a.send(&[raw::describe_statement("one"), raw::sync()].concat());
        assert_eq!(tags(&a.until_ready()), "tTZ", "after {sql}");
        a.send(&[raw::close_statement("one"), raw::close_statement("two"), raw::sync()].concat());
        assert_eq!(tags(&a.until_ready()), "33Z");
    }
}

#[test]
fn a_batch_that_arrives_in_parts_is_retried_except_in_a_transaction() {
    let bouncer = setup("stale_pieces");
    let (mut a, mut b) = (bouncer.client(), bouncer.client());
    prepare(&mut a, "s", "SELECT 'pieces' || $1");
    b.query(HIDDEN[0]);
    a.send(&[raw::bind("", "s", &[b"!"]), raw::flush()].concat());
    a.expect(b'2');
    a.send(&[raw::execute(), raw::sync()].concat());
    assert_eq!(tags(&a.until_ready()), "DCZ");
    // In a transaction the error has already aborted it.
    a.query("BEGIN");
    a.query(HIDDEN[0]);
    let outcome = run(&mut a, "s", &[b"!"]);
    assert!(outcome.contains("26000") && outcome.contains("\\\"s\\\""), "{outcome}");
    a.query("ROLLBACK");
    assert_eq!(run(&mut a, "s", &[b"!"]), "2DCZ");
}

#[test]
fn a_deallocate_in_the_same_batch_is_answered_before_dependent_messages() {
    let bouncer = setup("stale_batch");
    let mut a = bouncer.client();
    prepare(&mut a, "s", "SELECT 's' || $1");
    let deallocate = [raw::parse("", "DEALLOCATE ALL"), raw::bind("", "", &[]), raw::execute()].concat();
    let again =
        [raw::parse("s", "SELECT 's' || $1"), raw::bind("", "s", &[b"!"]), raw::execute(), raw::sync()]
            .concat();
    a.send(&[deallocate, again].concat());
    assert_eq!(tags(&a.until_ready()), "12C12DCZ");
    assert_eq!(run(&mut a, "s", &[b"?"]), "2DCZ");
    let simple = [raw::query("DISCARD ALL"), raw::parse("t", "SELECT 't' || $1"), raw::sync()].concat();
    a.send(&simple);
    assert_eq!((tags(&a.until_ready()), tags(&a.until_ready())), ("CZ".to_owned(), "1Z".to_owned()));
    assert_eq!(run(&mut a, "t", &[b"?"]), "2DCZ");
    assert!(run(&mut a, "s", &[b"?"]).contains("26000"));
}

#[test]
fn statements_prepared_before_a_table_change_are_prepared_again() {
    let bouncer = setup("stale_types");
    let (mut a, mut b) = (bouncer.client(), bouncer.client());
    prepare(&mut a, "all", "SELECT * FROM stale_types");
    assert_eq!(run(&mut a, "all", &[]), "2DCZ");
    // "cached plan must not change result type"
    b.query("ALTER TABLE stale_types ADD COLUMN more int");
    assert_eq!(run(&mut a, "all", &[]), "2DCZ");
    // An insert keeps its old parameter type without reporting an error.
    let insert = "INSERT INTO stale_types (n) VALUES ($1)";
    prepare(&mut a, "insert", insert);
    b.query("ALTER TABLE stale_types ALTER COLUMN n TYPE text");
    let mut c = bouncer.client();
    prepare(&mut c, "insert", insert);
    assert_eq!(run(&mut c, "insert", &[b"not a number"]), "2CZ");
    // "cache lookup failed for type"
    b.query("CREATE TYPE mood AS ENUM ('fine')");
    prepare(&mut a, "mood", "SELECT $1::mood");
    assert_eq!(run(&mut a, "mood", &[b"fine"]), "2DCZ");
    postgres()
        .sql_in("app", "DROP TYPE mood; CREATE TYPE mood AS ENUM ('fine'); ALTER TYPE mood OWNER TO app")
        .unwrap();
    assert_eq!(run(&mut a, "mood", &[b"fine"]), "2DCZ");
    postgres().sql_in("app", "DROP TYPE mood").unwrap();
}

#[test]
fn a_failed_transaction_refuses_a_known_statement_and_its_name_stays_free() {
    let bouncer = setup("stale_failed");
    let (mut a, mut b) = (bouncer.client(), bouncer.client());
    prepare(&mut b, "theirs", "SELECT 'known'");
    prepare(&mut b, "end", "ROLLBACK");
    a.query("BEGIN");
    a.query("SELECT 1/0");
    a.send(&[raw::parse("mine", "SELECT 'known'"), raw::sync()].concat());
    let messages = a.until_ready();
    assert_eq!((tags(&messages).as_str(), messages[0].error().0.as_str()), ("EZ", "25P02"));
    prepare(&mut a, "end", "ROLLBACK");
    assert_eq!(run(&mut a, "end", &[]), "2CZ");
    prepare(&mut a, "mine", "SELECT 'known'");
    assert_eq!(run(&mut a, "mine", &[]), "2DCZ");
}

#[test]
fn errors_contain_the_clients_statement_names() {
    let bouncer = setup("stale_names");
    let mut a = bouncer.client();
    prepare(&mut a, "mine", "SELECT $1::int");
    a.send(&[raw::parse("mine", "SELECT 'another'"), raw::sync()].concat());
    let messages = a.until_ready();
    assert_eq!(
        messages[0].error(),
        ("42P05".to_owned(), "prepared statement \"mine\" already exists".to_owned())
    );
    let outcome = run(&mut a, "mine", &[b"1", b"2"]);
    assert!(outcome.contains("\\\"mine\\\"") && !outcome.contains("iamb_"), "{outcome}");
    for name in ["iamb_1", "iamb_2", "nowhere"] {
        assert!(run(&mut a, name, &[]).contains(&format!("\\\"{name}\\\" does not exist")), "{name}");
        a.send(&[raw::describe_statement(name), raw::sync()].concat());
        let (_, text) = a.until_ready()[0].error();
        assert!(text.contains(&format!("\"{name}\"")), "{text}");
    }
}

#[test]
fn a_named_statement_above_sixteen_megabytes_works_and_keeps_its_server() {
    let bouncer = setup("stale_long");
    let mut a = bouncer.client();
    let long = format!("SELECT 'long' || $1 /* {} */", "x".repeat(17 * 1024 * 1024));
    prepare(&mut a, "long", &long);
    assert_eq!(run(&mut a, "long", &[b"!"]), "2DCZ");
    a.send(&[raw::describe_statement("long"), raw::sync()].concat());
    assert_eq!(tags(&a.until_ready()), "tTZ");
    assert_eq!(bouncer.show("SERVERS", "state"), ["active"]);
    a.send(&[raw::close_statement("long"), raw::sync()].concat());
    assert_eq!(tags(&a.until_ready()), "3Z");
    assert_eq!(bouncer.show("SERVERS", "state"), ["idle"]);
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
}
