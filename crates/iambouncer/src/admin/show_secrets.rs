//! SHOW SECRETS: cached secrets of Secrets Manager, without passwords. Owns its table.

use super::columns::{Records, Table, int4, int8, shown, text};
use super::console::Console;
use crate::identities::text_of_time;
use rds_iam::secrets::SecretStatus;
use std::time::SystemTime;

/// A secret, and the time at which it is shown.
pub(super) struct SecretRecord {
    status: SecretStatus,
    now: SystemTime,
}

impl SecretRecord {
    fn age(&self) -> Option<u64> {
        self.status.read_at.map(|at| self.now.duration_since(at).unwrap_or_default().as_secs())
    }
}

pub(super) static SECRETS: Table<SecretRecord> = Table {
    columns: &[
        text("secret", |secret| shown(&secret.status.key.arn)),
        text("identity", |secret| shown(&secret.status.key.identity)),
        text("user", |secret| secret.status.username.clone()),
        text("version", |secret| secret.status.version_id.clone()),
        int4("age", |secret| secret.age().and_then(shown)),
        text("previous_until", |secret| secret.status.previous_until.map(text_of_time)),
        int8("reads", |secret| shown(secret.status.reads)),
        int8("failed_reads", |secret| shown(secret.status.failed_reads)),
        int8("rotations", |secret| shown(secret.status.rotations)),
        text("last_error", |secret| secret.status.last_error.as_ref().and_then(shown)),
    ],
    records: Records::Here(secrets),
};

fn secrets(console: &Console) -> Vec<SecretRecord> {
    let now = SystemTime::now();
    let mut all = console.context.process.secrets.snapshot();
    all.sort_by(|a, b| a.key.arn.as_str().cmp(b.key.arn.as_str()));
    all.into_iter().map(|status| SecretRecord { status, now }).collect()
}
