//! SHOW SECRETS: cached secrets of Secrets Manager, without passwords. Owns the rows.

use super::console::Console;
use super::show::text;
use super::table::Row;
use crate::identities::text_of_time;
use std::time::SystemTime;

pub(super) fn secrets(console: &Console) -> Vec<Row> {
    let now = SystemTime::now();
    let mut all = console.context.process.secrets.snapshot();
    all.sort_by(|a, b| a.key.arn.as_str().cmp(b.key.arn.as_str()));
    let rows = all.into_iter().map(|status| {
        let age = status.read_at.map(|at| now.duration_since(at).unwrap_or_default().as_secs());
        vec![
            text(&status.key.arn),
            text(&status.key.identity),
            status.username,
            status.version_id,
            age.map(|seconds| seconds.to_string()),
            status.previous_until.map(text_of_time),
            text(status.reads),
            text(status.failed_reads),
            text(status.rotations),
            status.last_error.map(|error| error.to_string()),
        ]
    });
    rows.collect()
}
