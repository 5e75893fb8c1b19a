//! SHOW USERS: the users of `auth_file` and `[users]`. Owns their list and its table.

use super::DATABASE;
use super::columns::{Records, Table, int4, shown, text};
use super::console::Console;
use crate::config::{Config, UserOverrides};
use crate::limits::CounterKind;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A user with its line in `[users]`, if any.
pub(super) struct UserRecord {
    name: String,
    line: UserOverrides,
    config: Arc<Config>,
    servers: u32,
    clients: u32,
}

/// PgBouncer pads these numbers to nine places; a user without one of its own has an empty text.
fn padded(number: Option<u32>) -> Option<String> {
    shown(number.map(|number| format!("{number:>9}")).unwrap_or_default())
}

pub(super) static USERS: Table<UserRecord> = Table {
    columns: &[
        text("name", |user| shown(&user.name)),
        text("pool_size", |user| padded(user.line.pool_size)),
        text("reserve_pool_size", |user| padded(user.line.reserve_pool_size)),
        text("pool_mode", |user| user.line.pool_mode.and_then(shown)),
        int4("max_user_connections", |user| {
            shown(user.line.max_user_connections.unwrap_or(user.config.settings.max_user_connections))
        }),
        int4("current_connections", |user| shown(user.servers)),
        int4("max_user_client_connections", |user| {
            let setting = user.config.settings.max_user_client_connections;
            shown(user.line.max_user_client_connections.unwrap_or(setting))
        }),
        int4("current_client_connections", |user| shown(user.clients)),
    ],
    records: Records::Here(users),
};

/// Number of users, with that of the console.
pub(crate) fn count(console: &Console) -> usize {
    let loaded = console.context.loaded();
    let (of_file, of_lines) = (&loaded.users, &loaded.config.users);
    let only_of_lines = of_lines.keys().filter(|user| !of_file.contains_key(*user)).count();
    let has_console = of_file.contains_key(DATABASE) || of_lines.contains_key(DATABASE);
    of_file.len() + only_of_lines + usize::from(!has_console)
}

/// All known users, and that of the console.
fn names(console: &Console) -> BTreeSet<String> {
    let loaded = console.context.loaded();
    let of_files = loaded.users.keys().chain(loaded.config.users.keys());
    of_files.cloned().chain([DATABASE.to_owned()]).collect()
}

fn users(console: &Console) -> Vec<UserRecord> {
    let config = console.context.config();
    let limits = &console.context.process.limits;
    let record = |name: String| UserRecord {
        line: config.users.get(&name).cloned().unwrap_or_default(),
        servers: limits.counter(CounterKind::UserServers, &name).taken(),
        clients: limits.counter(CounterKind::UserClients, &name).taken(),
        config: config.clone(),
        name,
    };
    names(console).into_iter().map(record).collect()
}
