//! SHOW TOKENS: the state of the token engine, without the tokens. Owns its table.

use super::columns::{Records, Table, int4, int8, shown, text};
use super::console::Console;
use crate::identities::text_of_time;
use rds_iam::{CredentialStatus, TokenStatus};
use std::time::SystemTime;

/// A token with the credentials that sign it.
pub(super) struct TokenRecord {
    target: String,
    status: TokenStatus,
    credentials: Option<CredentialStatus>,
    arn: Option<String>,
    logins_per_second: u32,
    now: SystemTime,
}

impl TokenRecord {
    fn age(&self) -> Option<u64> {
        self.status.signed_at.map(|at| seconds(at, self.now))
    }

    fn left(&self) -> Option<u64> {
        self.status.expires_at.map(|at| seconds(self.now, at))
    }

    /// The error of the token, or else that of its credentials.
    fn last_error(&self) -> Option<String> {
        let of_token = self.status.last_error.as_ref().and_then(shown);
        of_token.or_else(|| self.credentials.as_ref()?.last_error.as_ref().and_then(shown))
    }
}

/// Whole seconds between two times; 0 if `to` is earlier.
pub(super) fn seconds(from: SystemTime, to: SystemTime) -> u64 {
    to.duration_since(from).unwrap_or_default().as_secs()
}

pub(super) static TOKENS: Table<TokenRecord> = Table {
    columns: &[
        text("endpoint", |token| shown(&token.target)),
        text("user", |token| shown(&token.status.key.user)),
        text("region", |token| shown(&token.status.key.region)),
        text("identity", |token| shown(&token.status.key.identity)),
        text("arn", |token| token.arn.clone()),
        text("provider", |token| token.credentials.as_ref().and_then(|known| known.provider.clone())),
        text("access_key_id", |token| token.status.access_key_id.clone()),
        int4("age", |token| token.age().and_then(shown)),
        int4("left", |token| token.left().and_then(shown)),
        text("credentials_until", |token| token.credentials.as_ref()?.ends_at.map(text_of_time)),
        int8("refusals", |token| shown(token.status.refusals)),
        int4("logins_per_second", |token| shown(token.logins_per_second)),
        text("last_error", TokenRecord::last_error),
    ],
    records: Records::Here(tokens),
};

fn tokens(console: &Console) -> Vec<TokenRecord> {
    let process = &console.context.process;
    let credentials = process.tokens.credentials_snapshot();
    let now = SystemTime::now();
    let mut all = process.tokens.snapshot();
    all.sort_by(|a, b| (&a.key.host, a.key.port, &a.key.user).cmp(&(&b.key.host, b.key.port, &b.key.user)));
    let record = |status: TokenStatus| {
        let target = format!("{}:{}", status.key.host, status.key.port);
        let of_identity = credentials.iter().find(|known| known.identity == status.key.identity);
        TokenRecord {
            credentials: of_identity.cloned(),
            arn: process.identities.get(&status.key.identity).caller.map(|caller| caller.arn),
            logins_per_second: process.login_rate.lately(&target, crate::worker::now()),
            target,
            status,
            now,
        }
    };
    all.into_iter().map(record).collect()
}
