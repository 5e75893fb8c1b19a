//! SHOW TOKENS: the state of the token engine, without the tokens. Owns the rows.

use super::console::Console;
use super::show::text;
use super::table::Row;
use crate::identities::text_of_time;
use std::time::SystemTime;

pub(super) fn tokens(console: &Console) -> Vec<Row> {
    let context = &console.context;
    let credentials = context.process.tokens.credentials_snapshot();
    let now = SystemTime::now();
    let seconds = |from: SystemTime, to: SystemTime| to.duration_since(from).unwrap_or_default().as_secs();
    let mut all = context.process.tokens.snapshot();
    all.sort_by(|a, b| (&a.key.host, a.key.port, &a.key.user).cmp(&(&b.key.host, b.key.port, &b.key.user)));
    let rows = all.into_iter().map(|status| {
        let key = &status.key;
        let of_identity = credentials.iter().find(|credentials| credentials.identity == key.identity);
        let known = context.process.identities.get(&key.identity);
        let target = format!("{}:{}", key.host, key.port);
        let last_error = status.last_error.map(|error| error.to_string());
        vec![
            text(&target),
            text(&key.user),
            text(&key.region),
            text(&key.identity),
            known.caller.map(|caller| caller.arn),
            of_identity.and_then(|credentials| credentials.provider.clone()),
            status.access_key_id,
            status.signed_at.map(|at| seconds(at, now).to_string()),
            status.expires_at.map(|at| seconds(now, at).to_string()),
            of_identity.and_then(|credentials| credentials.ends_at).map(text_of_time),
            text(status.refusals),
            text(context.process.login_rate.lately(&target, crate::worker::now())),
            last_error.or_else(|| of_identity?.last_error.as_ref().map(ToString::to_string)),
        ]
    });
    rows.collect()
}
