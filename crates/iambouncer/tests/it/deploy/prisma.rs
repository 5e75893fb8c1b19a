//! The page for Prisma. Its packages are large, so that it runs with the tests of what is released.

use crate::driver_pages::reconnects::serves_after_a_close;
use crate::driver_pages::{PRISMA, page_run::PageRun};

fn start(database: &str) -> PageRun {
    // For `prisma generate`, which needs the engine's file but does not run it.
    let engine = [("PRISMA_SCHEMA_ENGINE_BINARY", "/bin/true"), ("CHECKPOINT_DISABLE", "1")];
    let run = PageRun::start(database).with_packages("prisma");
    engine.into_iter().fold(run, |run, (name, value)| run.env(name, value))
}

#[test]
#[ignore = "needs `tools/drivers prisma`: run by make test-deploy"]
fn the_page_for_prisma_is_right() {
    start("page_prisma").follow(PRISMA);
}

#[test]
#[ignore = "needs `tools/drivers prisma`: run by make test-deploy"]
fn prisma_replaces_idle_clients() {
    let run = start("reconnects_prisma");
    run.unpack(PRISMA);
    run.output("npx prisma generate && psql -qc 'CREATE TABLE orders (id bigserial PRIMARY KEY, item text)'");
    serves_after_a_close(&run, "node serve.mjs");
}
