//! The pages for drivers and frameworks: their programs run as printed, with the output as printed, against a real
//! pooler in transaction pooling with two workers and several servers. Owns which test runs which page.

mod blocks;
pub(crate) mod page_run;
pub(crate) mod reconnects;
mod symptoms;

use blocks::{Block, blocks};
use page_run::{POOL_SIZE, PageRun, docs, page};
use std::collections::BTreeSet;

/// A page that is run with IAM only.
const LAMBDA: &str = "lambda.md";
/// A page that is run with the tests of what is released.
pub(crate) const PRISMA: &str = "drivers/prisma.md";

macro_rules! pages {
    ($($name:ident: $page:literal;)+) => {
        /// Pages whose commands are run as they are.
        const PAGES: &[&str] = &[$($page),+];

        $(
            #[test]
            fn $name() {
                PageRun::start(concat!("page_", stringify!($name))).follow($page);
            }
        )+
    };
}

pages! {
    rules: "drivers/README.md";
    client_tls: "client-tls.md";
    django: "drivers/django.md";
    pgx: "drivers/pgx.md";
    psycopg_asyncpg: "drivers/psycopg-asyncpg.md";
    rails: "drivers/rails.md";
    sqlx: "drivers/sqlx.md";
    sqlalchemy: "drivers/sqlalchemy.md";
    jdbc: "drivers/jdbc.md";
    node_postgres: "drivers/node-postgres.md";
}

/// Runs a page with IAM behind the pooler, which the application does not notice. Returns the number of logins.
fn logins_with_iam(name: &str, page: &str) -> usize {
    let run = PageRun::start_with_iam(&format!("page_{name}_iam"));
    run.follow(page);
    run.accepted_tokens()
}

#[test]
fn django_with_iam() {
    assert_ne!(logins_with_iam("django", "drivers/django.md"), 0);
}

#[test]
fn lambda_with_iam() {
    let logins = logins_with_iam("lambda", LAMBDA);
    assert!((1..=POOL_SIZE).contains(&logins), "{logins}");
}

#[test]
fn jdbc_with_iam() {
    assert_ne!(logins_with_iam("jdbc", "drivers/jdbc.md"), 0);
}

/// The server with the lock is not free when it is to be unlocked.
#[test]
fn a_migration_of_rails_cannot_release_its_advisory_lock() {
    let run = PageRun::start("page_rails_locks");
    run.unpack("drivers/rails.md");
    run.change("config/database.yml", "advisory_locks: false", "advisory_locks: true");
    let keepers = "  disable_ddl_transaction!\n  def change\n    \
                   $keepers = Array.new(3) { PG.connect.tap { |keeper| keeper.exec('BEGIN') } }\n";
    run.change("db/migrate/20260101000000_create_orders.rb", "  def change\n", keepers);
    let output = run.output("ruby migrate.rb");
    for part in ["Failed to release advisory lock", "ActiveRecord::ConcurrentMigrationError"] {
        assert!(output.contains(part), "{output}");
    }
}

#[test]
fn the_program_of_the_page_for_sqlx_is_the_compiled_one() {
    let text = include_str!("../../drivers/sqlx_page.rs").to_owned();
    assert_eq!(blocks(&page("drivers/sqlx.md"))[0], Block::File { name: "main.rs".to_owned(), text });
}

#[test]
fn every_page_with_programs_has_a_test() {
    let mut found = BTreeSet::new();
    for dir in [docs(), docs().join("drivers"), docs().join("migrate")] {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(docs()).unwrap().display().to_string();
            if name.ends_with(".md") && !blocks(&page(&name)).is_empty() {
                found.insert(name);
            }
        }
    }
    let run = PAGES.iter().chain(&[LAMBDA, PRISMA]).map(|&name| name.to_owned()).collect();
    assert_eq!(found, run);
}
