//! What functions of the database change in the session of their caller follows the client, too, or the client keeps its
//! server.

use super::{mismatches, pins, run, wait_for_pins};
use crate::support::bouncer::Start;
use crate::support::raw::{self, Client};
use crate::support::{Bouncer, eventually, postgres};
use std::time::{Duration, Instant};

/// A pooler with one server, which all clients share, and a database of its own.
struct Fixture {
    database: String,
    bouncer: Bouncer,
}

const TENANT: &str = "SELECT coalesce(current_setting('app.tenant', true), '')";

const SET_TENANT: &str = "CREATE FUNCTION set_tenant(t text) RETURNS void LANGUAGE plpgsql AS
    $$ BEGIN PERFORM set_config('app.tenant', t, false); END $$";

impl Fixture {
    fn new(database: &str, definitions: &[&str], settings: &[&str]) -> Self {
        let database = format!("functions_{database}");
        postgres().sql(&format!("CREATE DATABASE {database} OWNER app")).unwrap();
        for sql in definitions {
            postgres().sql_in(&database, sql).unwrap();
        }
        let line = format!("app = host=127.0.0.1 port={} dbname={database}", postgres().port());
        let start = Start::databases(&line).set("session_state = follow").set("default_pool_size = 1");
        let bouncer = settings.iter().fold(start, |start, line| start.set(line)).start();
        Self { database, bouncer }
    }

    fn clients(&self) -> (Client, Client) {
        (self.bouncer.client(), self.bouncer.client())
    }

    /// After this statement, the setting has this value for its client, and none for another, which gets the server.
    fn expect_tenant(&self, statement: &str, tenant: &str) {
        let (mut a, mut b) = self.clients();
        run(&mut a, &[statement]);
        assert_eq!(b.value(TENANT), "", "{statement}");
        assert_eq!(a.value(TENANT), tenant, "{statement}");
        assert_eq!(pins(&self.bouncer), [""; 0], "{statement}");
    }

    /// After this statement, the client keeps its server for this reason.
    fn expect_pin(&self, statement: &str, reason: &str) {
        let mut a = self.bouncer.client();
        run(&mut a, &[statement]);
        assert_eq!(pins(&self.bouncer), [reason], "{statement}");
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = postgres().sql(&format!("DROP DATABASE {} WITH (FORCE)", self.database));
    }
}

#[test]
fn a_setting_that_a_function_sets_follows_the_client() {
    let fixture = Fixture::new("settings", &[SET_TENANT], &[]);
    let (mut a, mut b) = fixture.clients();
    run(&mut a, &["SELECT set_tenant('simple')"]);
    assert_eq!(b.value(TENANT), "");
    assert_eq!(a.value(TENANT), "simple");
    // A rollback takes it back.
    run(&mut a, &["BEGIN", "SELECT set_tenant('rolled back')", "ROLLBACK"]);
    assert_eq!(b.value(TENANT), "");
    assert_eq!(a.value(TENANT), "simple");
    for name in ["", "named"] {
        for value in ["one", "two"] {
            let mut batch =
                if value == "one" { raw::parse(name, "SELECT set_tenant($1)") } else { Vec::new() };
            if name.is_empty() && value == "two" {
                // The unnamed statement of an earlier batch.
                run(&mut b, &["SELECT 1"]);
                batch = raw::parse(name, "SELECT set_tenant($1)");
            }
            batch.extend(raw::bind("", name, &[value.as_bytes()]));
            batch.extend([raw::execute(), raw::sync()].concat());
            a.send(&batch);
            a.until_ready();
            assert_eq!(b.value(TENANT), "");
            assert_eq!(a.value(TENANT), value, "statement {name:?}");
        }
    }
    assert!(pins(&fixture.bouncer).is_empty() && !mismatches(&fixture.bouncer));
}

/// Its client's next server refused the value: "permission denied to set parameter".
#[test]
fn a_setting_for_superusers_keeps_the_server_of_a_user_who_may_not_change_it() {
    let quiet = "CREATE FUNCTION quiet(level text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS
        $$ BEGIN PERFORM set_config('log_min_messages', level, false); END $$";
    let role = "DROP ROLE IF EXISTS quiet_root; CREATE ROLE quiet_root SUPERUSER; GRANT quiet_root TO app";
    let fixture = Fixture::new("superuser_setting", &[quiet, role, SET_TENANT], &[]);
    let mut a = fixture.bouncer.client();
    for _ in 0..2 {
        // The first time, and when it is known that this one is not for superusers.
        run(&mut a, &["SELECT set_tenant('a')"]);
        wait_for_pins(&fixture.bouncer, &[]);
    }
    run(&mut a, &["SELECT quiet('error')"]);
    wait_for_pins(&fixture.bouncer, &["superuser_setting"]);
    assert_eq!(a.value("SHOW log_min_messages"), "error");
    run(&mut a, &["DISCARD ALL"]);
    wait_for_pins(&fixture.bouncer, &[]);
    let mut b = fixture.bouncer.client();
    assert_eq!(b.value("SHOW log_min_messages"), a.value("SHOW log_min_messages"));
    // Another role does so without a function.
    run(&mut b, &["BEGIN", "SET LOCAL ROLE quiet_root", "SET log_min_messages = 'fatal'", "COMMIT"]);
    wait_for_pins(&fixture.bouncer, &["superuser_setting"]);
    drop(b);
    assert_eq!(a.value("SHOW log_min_messages"), "warning", "the server is reset");
    // A superuser's next server accepts the value.
    let mut root = Client::log_in(fixture.bouncer.port, "postgres", "app");
    run(&mut root, &["SET log_min_messages = 'error'"]);
    wait_for_pins(&fixture.bouncer, &[]);
    assert_eq!(root.value("SHOW log_min_messages"), "error");
}

#[test]
fn every_way_to_call_a_function_is_seen() {
    let definitions = [
        SET_TENANT,
        "CREATE FUNCTION outer_tenant(t text) RETURNS void LANGUAGE sql AS 'SELECT set_tenant(t)'",
        "CREATE FUNCTION dynamic_tenant(t text) RETURNS void LANGUAGE plpgsql AS
            $$ BEGIN EXECUTE format('SELECT outer_tenant(%L)', t); END $$",
        "CREATE FUNCTION set_directly() RETURNS void LANGUAGE plpgsql AS $$ BEGIN SET app.tenant = 'x'; END $$",
        "CREATE FUNCTION set_dynamically() RETURNS void LANGUAGE plpgsql AS
            $$ BEGIN EXECUTE 'SET app.tenant = ' || quote_literal('x'); END $$",
        "CREATE PROCEDURE set_by_call() LANGUAGE plpgsql AS $$ BEGIN PERFORM set_tenant('x'); COMMIT; END $$",
        "CREATE FUNCTION on_write() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM set_tenant('x'); RETURN NEW; END $$",
        "CREATE TABLE with_trigger (a int); GRANT ALL ON with_trigger TO PUBLIC;
            CREATE TRIGGER t BEFORE INSERT ON with_trigger FOR EACH ROW EXECUTE FUNCTION on_write()",
        "CREATE VIEW over_table AS SELECT * FROM with_trigger; GRANT ALL ON over_table TO PUBLIC",
        "CREATE FUNCTION writes() RETURNS void LANGUAGE sql AS 'INSERT INTO with_trigger VALUES (1)'",
        "CREATE FUNCTION set_and_return() RETURNS int LANGUAGE sql AS 'SELECT set_tenant(''x''); SELECT 1'",
        "CREATE VIEW calling AS SELECT set_and_return(); GRANT ALL ON calling TO PUBLIC",
        "CREATE TABLE with_default (a int, b int DEFAULT set_and_return()); GRANT ALL ON with_default TO PUBLIC",
        "CREATE TABLE parent (a int PRIMARY KEY) PARTITION BY RANGE (a); CREATE TABLE partition1 PARTITION OF parent
            FOR VALUES FROM (0) TO (100); GRANT ALL ON parent, partition1 TO PUBLIC;
            CREATE TRIGGER t BEFORE INSERT ON partition1 FOR EACH ROW EXECUTE FUNCTION on_write()",
        "CREATE TABLE one (a int PRIMARY KEY); INSERT INTO one VALUES (1); GRANT ALL ON one TO PUBLIC;
            CREATE TABLE many (a int REFERENCES one ON DELETE CASCADE); INSERT INTO many VALUES (1);
            CREATE FUNCTION on_delete() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN PERFORM set_config('app.tenant', 'x', false); RETURN OLD; END $$;
            CREATE TRIGGER t BEFORE DELETE ON many FOR EACH ROW EXECUTE FUNCTION on_delete()",
        "CREATE FUNCTION own_clause() RETURNS void LANGUAGE plpgsql SET app.tenant = 'y' AS
            $$ BEGIN PERFORM set_config('app.tenant', 'x', false); END $$",
        "CREATE FUNCTION nested() RETURNS void LANGUAGE plpgsql AS
            $$ BEGIN DO $i$ BEGIN PERFORM set_config('app.tenant', 'x', false); END $i$; END $$",
        "CREATE FUNCTION parsed_set() RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT set_config('app.tenant', 'x', false); END",
        "CREATE FUNCTION parsed_body(t text) RETURNS void LANGUAGE sql BEGIN ATOMIC SELECT set_tenant(t); END",
    ];
    let fixture = Fixture::new("ways", &definitions, &[]);
    for statement in [
        "SELECT outer_tenant('x')",
        "SELECT public.\"dynamic_tenant\"('x')",
        "SELECT set_directly()",
        "SELECT set_dynamically()",
        "CALL set_by_call()",
        "DO $$ BEGIN PERFORM set_tenant('x'); END $$",
        "INSERT INTO with_trigger VALUES (1)",
        "INSERT INTO over_table VALUES (1)",
        "SELECT writes()",
        "SELECT * FROM calling",
        "INSERT INTO with_default (a) VALUES (1)",
        "INSERT INTO parent VALUES (1)",
        "DELETE FROM one",
        "SELECT own_clause()",
        "SELECT nested()",
        "SELECT parsed_set()",
        "SELECT parsed_body('x')",
    ] {
        fixture.expect_tenant(statement, "x");
    }
    fixture.expect_tenant("SELECT count(*) FROM with_trigger", "");
    let names = fixture.bouncer.show("FUNCTIONS", "name");
    for name in ["set_tenant", "parsed_body", "with_trigger", "over_table", "parent", "one"] {
        assert!(names.iter().any(|known| known == name), "{name} in {names:?}");
    }
    assert!(fixture.bouncer.show("FUNCTIONS", "settings").iter().all(|settings| settings == "app.tenant"));
}

#[test]
fn a_client_keeps_its_server_for_what_a_function_leaves_there() {
    let definitions = [
        "CREATE FUNCTION take_lock() RETURNS void LANGUAGE sql AS 'SELECT pg_advisory_lock(4711)'",
        "CREATE FUNCTION give_lock() RETURNS boolean LANGUAGE sql AS 'SELECT pg_advisory_unlock(4711)'",
        "CREATE FUNCTION make_table() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CREATE TEMP TABLE mine (a int); END $$",
        "CREATE FUNCTION set_any(n text) RETURNS void LANGUAGE plpgsql AS
            $$ BEGIN PERFORM set_config(n, 'x', false); END $$",
        "CREATE PROCEDURE harmless() LANGUAGE plpgsql AS $$ BEGIN PERFORM 1; END $$",
    ];
    let fixture = Fixture::new("kept", &definitions, &[]);
    let (mut a, mut b) = fixture.clients();
    run(&mut a, &["SELECT take_lock()"]);
    assert_eq!(pins(&fixture.bouncer), ["advisory_lock"]);
    run(&mut a, &["SELECT give_lock()"]);
    assert_eq!(b.value("SELECT 1"), "1");
    assert!(pins(&fixture.bouncer).is_empty());
    run(&mut a, &["SELECT make_table()"]);
    assert_eq!(pins(&fixture.bouncer), ["temporary_object"]);
    run(&mut a, &["DROP TABLE mine"]);
    assert_eq!(b.value("SELECT 1"), "1");
    run(&mut a, &["CALL harmless()"]);
    assert!(pins(&fixture.bouncer).is_empty());
    drop((a, b));
    fixture.expect_pin("SELECT set_any('app.tenant')", "computed_setting");
}

#[test]
fn a_function_that_a_client_creates_is_known_when_it_is_called() {
    let fixture = Fixture::new("created", &["GRANT ALL ON SCHEMA public TO PUBLIC"], &["workers = 2"]);
    let (mut a, mut b) = fixture.clients();
    run(&mut a, &[SET_TENANT]);
    run(&mut a, &["SELECT set_tenant('a')"]);
    assert_eq!(b.value(TENANT), "");
    assert_eq!(a.value(TENANT), "a");
    run(&mut a, &["DROP FUNCTION set_tenant(text)", "SELECT 1"]);
    assert!(fixture.bouncer.show("FUNCTIONS", "name").is_empty());
}

#[test]
fn a_function_that_one_user_creates_is_known_to_another() {
    let fixture = Fixture::new("another", &["GRANT ALL ON SCHEMA public TO PUBLIC"], &["workers = 2"]);
    let mut a = fixture.bouncer.client();
    let mut other = Client::log_in(fixture.bouncer.port, "other", "app");
    run(&mut other, &["SELECT 1"]);
    run(&mut a, &[SET_TENANT]);
    run(&mut other, &["SELECT set_tenant('x')"]);
    assert_eq!(Client::log_in(fixture.bouncer.port, "other", "app").value(TENANT), "");
    // A table that is renamed keeps its trigger.
    let trigger = "CREATE FUNCTION on_write() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM set_tenant('x'); RETURN NEW; END $$";
    run(&mut a, &[trigger, "CREATE TABLE before (a int)"]);
    run(&mut a, &["CREATE TRIGGER t BEFORE INSERT ON before FOR EACH ROW EXECUTE FUNCTION on_write()"]);
    run(&mut a, &["ALTER TABLE before RENAME TO behind"]);
    fixture.expect_tenant("INSERT INTO behind VALUES (1)", "x");
}

#[test]
fn a_session_pool_of_the_same_database_goes_on_after_a_change() {
    let grant = ["GRANT ALL ON SCHEMA public TO PUBLIC"];
    let fixture = Fixture::new("modes", &grant, &["[users]", "other = pool_mode=session"]);
    let mut first = Client::log_in(fixture.bouncer.port, "other", "app");
    let mut a = fixture.bouncer.client();
    assert_eq!(first.value("SELECT 1"), "1");
    run(&mut a, &[SET_TENANT]);
    // Nothing has been compared since; that is left to the other pool.
    first.send(&raw::terminate());
    for _ in 0..3 {
        let mut next = Client::log_in(fixture.bouncer.port, "other", "app");
        assert_eq!(next.value("SELECT 1"), "1");
        next.send(&raw::terminate());
    }
}

#[test]
fn common_forms_of_functions_make_no_client_keep_its_server() {
    let definitions = [
        "CREATE TABLE t (id serial, a int); GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;
            GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO PUBLIC",
        "CREATE FUNCTION insert_t() RETURNS bigint LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO t (a) VALUES (1); RETURN currval('t_id_seq'); END $$",
        "CREATE FUNCTION dynamic() RETURNS void LANGUAGE plpgsql AS $$ DECLARE q text := 'UPDATE t'; BEGIN
            q := q || format(' SET %I = %L', 'a', 2); EXECUTE q; IF false THEN RAISE 'Call of % finished', q; END IF; END $$",
        "CREATE FUNCTION local_settings(p text) RETURNS void LANGUAGE plpgsql SET search_path = public, pg_temp AS $$ BEGIN
            PERFORM set_config('app.' || p, 'x', true), set_config('search_path', p, true);
            SET LOCAL search_path = public, pg_temp; END $$",
    ];
    let fixture = Fixture::new("common", &definitions, &[]);
    for statement in [
        "SELECT insert_t()",
        "SELECT dynamic()",
        "SELECT local_settings('public')",
        "SELECT set_config('search_path', 'pub' || 'lic', true), set_config('app.' || 'x', 'y', true)",
    ] {
        fixture.expect_tenant(statement, "");
    }
}

#[test]
fn a_function_that_was_created_elsewhere_is_known_within_30_seconds() {
    let fixture = Fixture::new("elsewhere", &[], &[]);
    let (mut a, _b) = fixture.clients();
    run(&mut a, &["SELECT 1"]);
    postgres().sql_in(&fixture.database, SET_TENANT).unwrap();
    let created = Instant::now();
    while fixture.bouncer.show("FUNCTIONS", "name").is_empty() {
        assert!(created.elapsed() < Duration::from_secs(30), "it is known");
        run(&mut a, &["SELECT 1"]);
        std::thread::sleep(Duration::from_millis(100));
    }
    fixture.expect_tenant("SELECT set_tenant('x')", "x");
}

#[test]
fn the_setting_decides_about_functions_that_cannot_be_examined() {
    let definitions = [
        "CREATE FUNCTION runs(sql text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE sql; END $$",
        "CREATE FUNCTION harmless() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 1; END $$",
    ];
    let careful = Fixture::new("careful", &definitions, &[]);
    run(&mut careful.bouncer.client(), &["SELECT runs('SELECT 1')", "SELECT harmless()"]);
    assert!(pins(&careful.bouncer).is_empty());
    let strict = Fixture::new("strict", &definitions, &["session_state_functions = strict"]);
    run(&mut strict.bouncer.client(), &["SELECT harmless()"]);
    assert!(pins(&strict.bouncer).is_empty());
    strict.expect_pin("SELECT runs('SELECT 1')", "unknown_code");
    // RELOAD has an effect.
    let ini = std::fs::read_to_string(careful.bouncer.ini()).unwrap();
    std::fs::write(careful.bouncer.ini(), format!("{ini}\nsession_state_functions = strict\n")).unwrap();
    careful.bouncer.console().query("RELOAD");
    let mut client = careful.bouncer.client();
    eventually("the functions are judged again", || {
        run(&mut client, &["SELECT 1"]);
        careful.bouncer.show("FUNCTIONS", "name") == ["runs"]
    });
    careful.expect_pin("SELECT runs('SELECT 1')", "unknown_code");
}

#[test]
fn the_setting_decides_if_the_catalog_cannot_be_read() {
    let hide = ["REVOKE ALL ON pg_catalog.pg_trigger FROM PUBLIC"];
    let careful = Fixture::new("hidden_careful", &hide, &[]);
    run(&mut careful.bouncer.client(), &["SELECT 1"]);
    assert!(pins(&careful.bouncer).is_empty());
    careful.bouncer.wait_for_line("permission denied for table pg_trigger");
    let problems = careful.bouncer.show("FUNCTIONS", "problem");
    assert!(problems.iter().any(|problem| problem.contains("pg_trigger")), "{problems:?}");
    let strict = Fixture::new("hidden_strict", &hide, &["session_state_functions = strict"]);
    strict.expect_pin("SELECT 1", "unknown_code");
}
