//! The committed reference pages match what the tables generate.

#![allow(clippy::expect_used, reason = "a failed step fails the test")]

use std::path::Path;

/// Compares a page in docs/ with the generated text, or writes it if UPDATE_DOCS=1.
fn check(page: &str, wanted: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(page);
    if std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1") {
        std::fs::write(&path, wanted).expect("docs/ can be written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == wanted, "docs/{page} is out of date: run `make doc`");
}

#[test]
fn settings_page_matches_the_tables() {
    check("settings.md", &iambouncer::config::settings_markdown());
}

#[test]
fn messages_page_matches_the_table() {
    check("pgbouncer-messages.md", &iambouncer::client_error::messages::messages_markdown());
}

#[test]
fn metrics_page_matches_the_table() {
    check("metrics.md", &iambouncer::http::metrics_markdown());
}

#[test]
fn api_page_matches_the_tables() {
    check("api.md", &iambouncer::http::api_markdown());
}

#[test]
fn page_of_log_fields_matches_the_table() {
    check("logging.md", &iambouncer::cli::logging_markdown());
}
