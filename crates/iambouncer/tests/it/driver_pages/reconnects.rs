//! Pools and persistent connections of applications when the pooler closes its clients, as at a restart or a drain:
//! with the settings of the pages the next request succeeds. Owns nothing but these facts.

use super::page_run::PageRun;

/// Serves two requests with a close of all connections in between.
fn serves_after_a_close(run: &PageRun, program: &str) {
    let mut program = run.program(program);
    assert_eq!(program.answer("apple"), "apple: 1 ordered");
    run.close_clients();
    assert_eq!(program.answer("apple"), "apple: 2 ordered");
    assert_eq!(program.answer("apple"), "apple: 3 ordered");
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
