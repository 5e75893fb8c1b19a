//! Pools and persistent connections of applications when the pooler closes its clients, as at a restart or a drain:
//! with the settings of the pages the next request succeeds. Owns nothing but these facts.

use super::page_run::PageRun;
use rustix::process::Signal;

/// Serves requests with a close of all connections after the first.
pub(crate) fn serves_after_a_close(run: &PageRun, program: &str) {
    let mut program = run.program(program);
    for number in 0..3 {
        let answer = program.answer("apple");
        assert!(answer.ends_with(&format!("apple: {} ordered", number + 1)), "{answer}");
        if number == 0 {
            run.close_clients();
        }
    }
}

/// Serves an invocation after the process was frozen, during which the pooler closed its connection.
fn serves_after_a_freeze(run: &PageRun, program: &str, item: &str) {
    let mut program = run.program(program);
    assert_eq!(program.answer(item), format!("{item}: 1 ordered"));
    program.signal(Signal::STOP);
    run.close_clients();
    program.signal(Signal::CONT);
    assert_eq!(program.answer(item), format!("{item}: 2 ordered"));
}

/// Expects that the request after a close fails with this text.
fn fails_after_a_close(run: &PageRun, program: &str, text: &str) {
    let mut program = run.program(program);
    assert_eq!(program.answer("pear"), "pear: 1 ordered");
    run.close_clients();
    let failure = program.failure("pear");
    assert!(failure.contains(text), "{failure}");
}

#[test]
fn django_checks_a_persistent_connection_before_a_request() {
    let run = PageRun::start("reconnects_django");
    run.unpack("drivers/django.md");
    run.output("python manage.py makemigrations orders && python manage.py migrate");
    serves_after_a_close(&run, "python serve.py");
    run.change("settings.py", "\"CONN_HEALTH_CHECKS\": True", "\"CONN_HEALTH_CHECKS\": False");
    fails_after_a_close(&run, "python serve.py", "psycopg.errors.AdminShutdown: admin forced disconnect");
}

#[test]
fn sqlalchemy_checks_a_connection_before_use() {
    let run = PageRun::start("reconnects_sqlalchemy");
    run.unpack("drivers/sqlalchemy.md");
    serves_after_a_close(&run, "python serve.py");
    run.change("models.py", "pool_pre_ping=True", "pool_pre_ping=False");
    fails_after_a_close(&run, "python serve.py", "psycopg.errors.AdminShutdown) admin forced disconnect");
}

#[test]
fn node_postgres_replaces_idle_clients() {
    let run = PageRun::start("reconnects_node_postgres");
    run.unpack("drivers/node-postgres.md");
    serves_after_a_close(&run, "node serve.mjs");
    run.change("serve.mjs", "pool.on(\"error\"", "pool.on(\"unused\"");
    fails_after_a_close(&run, "node serve.mjs", "admin forced disconnect");
}

#[test]
fn hikaricp_tests_a_connection_that_was_idle() {
    let run = PageRun::start("reconnects_jdbc");
    run.unpack("drivers/jdbc.md");
    assert_eq!(run.output("javac -d classes Pool.java Serve.java"), "");
    serves_after_a_close(&run, "java -cp \"classes:$CLASSPATH\" Serve");
}

#[test]
fn hikaricp_outlives_client_idle_timeout() {
    let run = PageRun::start_with("idle_jdbc", &["client_idle_timeout = 3"]);
    run.unpack("drivers/jdbc.md");
    assert_eq!(run.output("javac -d classes Pool.java Serve.java"), "");
    let mut program = run.program("java -cp \"classes:$CLASSPATH\" Serve");
    assert_eq!(program.answer("apple"), "apple: 1 ordered");
    run.wait_for_no_clients();
    assert_eq!(program.answer("apple"), "apple: 2 ordered");
    run.bouncer.wait_for_line("client_idle_timeout");
}

#[test]
fn the_pools_of_psycopg_and_asyncpg_replace_closed_connections() {
    let run = PageRun::start("reconnects_psycopg");
    run.unpack("drivers/psycopg-asyncpg.md");
    serves_after_a_close(&run, "python serve.py");
    run.change("serve_async.py", "item = line.strip()", "item = \"async \" + line.strip()");
    serves_after_a_close(&run, "python serve_async.py");
    run.change("serve.py", "check=ConnectionPool.check_connection,", "");
    fails_after_a_close(&run, "python serve.py", "AdminShutdown: admin forced disconnect");
}

#[test]
fn pgx_pings_a_connection_before_use() {
    let run = PageRun::start("reconnects_pgx");
    run.unpack("drivers/pgx.md");
    assert_eq!(run.output("go build -o serve serve.go"), "");
    serves_after_a_close(&run, "./serve");
    run.change("serve.go", "return connection.Ping(ctx) == nil", "return true");
    assert_eq!(run.output("go build -o serve serve.go"), "");
    fails_after_a_close(&run, "./serve", "admin forced disconnect (SQLSTATE 57P01)");
}

#[test]
fn sqlx_tests_a_connection_before_use() {
    let run = PageRun::start("reconnects_sqlx");
    run.unpack("drivers/sqlx.md");
    serves_after_a_close(&run, "orders");
}

#[test]
fn activerecord_verifies_a_connection_before_a_request() {
    let run = PageRun::start("reconnects_rails");
    run.unpack("drivers/rails.md");
    assert_eq!(run.output("ruby migrate.rb"), "1\n");
    serves_after_a_close(&run, "ruby serve.rb");
}

#[test]
fn functions_check_their_connection_after_a_freeze() {
    let run = PageRun::start("reconnects_lambda");
    run.unpack("lambda.md");
    run.output("psql -qc 'CREATE TABLE orders (item text)'");
    serves_after_a_freeze(&run, "python invoke.py", "apple");
    serves_after_a_freeze(&run, "node invoke.mjs", "pear");
}

/// A restart as in docs/rolling-restart.md, between two requests of applications of several languages.
#[test]
fn applications_do_not_notice_a_restart_of_the_pooler() {
    let mut run = PageRun::start_with("restarts", &["so_reuseport = 1", "drain_max_seconds = 1"]);
    run.unpack("drivers/django.md");
    let prepare =
        "mv serve.py django_serve.py && python manage.py makemigrations orders && python manage.py migrate";
    run.output(prepare);
    run.unpack("drivers/node-postgres.md");
    run.unpack("drivers/psycopg-asyncpg.md");
    let lines = ["python django_serve.py", "node serve.mjs", "python serve.py"];
    let mut programs = lines.map(|line| (line, run.program(line)));
    for (line, program) in &mut programs {
        assert_eq!(program.answer(line), format!("{line}: 1 ordered"));
    }
    run.restart();
    for (line, program) in &mut programs {
        assert_eq!(program.answer(line), format!("{line}: 2 ordered"));
    }
}

#[test]
fn a_connection_that_is_not_checked_fails_after_a_drain() {
    let mut run = PageRun::start_with("restarts_unchecked", &["so_reuseport = 1", "drain_max_seconds = 1"]);
    run.unpack("drivers/psycopg-asyncpg.md");
    run.change("serve.py", "check=ConnectionPool.check_connection,", "");
    let mut program = run.program("python serve.py");
    assert_eq!(program.answer("apple"), "apple: 1 ordered");
    run.restart();
    let failure = program.failure("apple");
    assert!(failure.contains("AdminShutdown: server shutting down"), "{failure}");
}
