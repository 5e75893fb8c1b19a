//! Complete deployments. Each scenario uses a real configuration file or manifest; only addresses and paths
//! are replaced.

use crate::support::program::Logged;
use crate::support::sim::Sim;
use rds_sim::postgres::PostgresOptions;
use rustix::process::Signal;
use std::path::Path;

const DJANGO_INI: &str = include_str!("../data/django-pod.ini");
const DJANGO_HOST: &str = "shop.abcdefghijkl.eu-central-1.rds.amazonaws.com";

/// The file with paths of the test. The endpoint's name does not resolve, so the connection goes to the
/// simulator.
fn django_ini(sim: &Sim, dir: &Path) -> String {
    let file = |name: &str| dir.join(name).display().to_string();
    let replacements = [
        (format!("host={DJANGO_HOST}"), format!("host=localhost iam_host={DJANGO_HOST}")),
        ("port=5432".to_owned(), format!("port={}", sim.port())),
        ("listen_port = 6432".to_owned(), "listen_port = 0\nhttp_port = 0\nunix_socket_dir =".to_owned()),
        ("/etc/pgbouncer/userlist.txt".to_owned(), file("userlist.txt")),
        ("/var/run/pgbouncer/pgbouncer.pid".to_owned(), file("pgbouncer.pid")),
        ("/var/log/pgbouncer/pgbouncer.log".to_owned(), file("pgbouncer.log")),
        ("/etc/ssl/certs/rds-global-bundle.pem".to_owned(), sim.ca_file().display().to_string()),
    ];
    replacements.iter().fold(DJANGO_INI.to_owned(), |text, (from, to)| {
        assert!(text.contains(from.as_str()), "{from}");
        text.replace(from, to)
    })
}

/// The queries of a Django application: repeated transactions with parameterized statements.
async fn transactions(port: u16) -> i64 {
    let url = format!("host=127.0.0.1 port={port} user=shop_app dbname=shop");
    let (mut client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    for amount in 1..=5_i64 {
        let transaction = client.transaction().await.unwrap();
        transaction.execute("INSERT INTO orders (amount) VALUES ($1)", &[&amount]).await.unwrap();
        transaction.commit().await.unwrap();
    }
    let sum = client.query_one("SELECT sum(amount)::bigint FROM orders", &[]).await.unwrap().get(0);
    drop(client);
    connection.await.unwrap().unwrap();
    sum
}

#[test]
fn a_django_pod_works_with_its_pgbouncer_file_and_one_added_word() {
    let server = crate::support::postgres::start(PostgresOptions::default());
    server.sql("CREATE ROLE shop_app LOGIN").unwrap();
    server.sql("CREATE DATABASE shop OWNER shop_app").unwrap();
    server.sql_in("shop", "CREATE TABLE orders (amount bigint); GRANT ALL ON orders TO shop_app").unwrap();
    let sim = Sim::for_users(&server, DJANGO_HOST, "eu-central-1", &["shop_app"]);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("userlist.txt"), "\"shop_app\" \"\"\n").unwrap();
    let ini = dir.path().join("pgbouncer.ini");
    std::fs::write(&ini, django_ini(&sim, dir.path())).unwrap();

    let log_file = dir.path().join("pgbouncer.log");
    let mut pooler = Logged::start(&[ini.display().to_string()], &sim.environment(), &log_file);
    let log = pooler.log();
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("WARN")).collect();
    assert!(warnings.iter().all(|line| line.contains("max_client_conn")), "{log}");
    assert!(!log.contains("ERROR"), "{log}");

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(runtime.block_on(transactions(pooler.port)), 15);
    let (accepted, refused) = sim.simulator.log().accepted_and_refused();
    assert!(accepted >= 1 && refused == 0);

    pooler.signal(Signal::TERM);
    assert_eq!(pooler.wait_for_end().code(), Some(0));
    assert!(!dir.path().join("pgbouncer.pid").exists());
}
