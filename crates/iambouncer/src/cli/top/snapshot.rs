//! What `top` shows at one time: the tables of the console. Owns which commands are sent for it.

use super::super::console_client::{ConsoleClient, ConsoleTable};
use super::views::VIEWS;
use crate::stats::snapshot::PoolName;
use std::collections::BTreeMap;

/// The state of the pooler, the problems, the rows of the selected view, and the history of the pools.
pub(super) struct TopSnapshot {
    pub(super) status: ConsoleTable,
    pub(super) problems: ConsoleTable,
    pub(super) pools: ConsoleTable,
    pub(super) latencies: ConsoleTable,
    /// The rows of the view with this place.
    pub(super) view: usize,
    pub(super) rows: ConsoleTable,
    history: BTreeMap<PoolName, Vec<u64>>,
}

impl TopSnapshot {
    /// Reads the tables for a view.
    ///
    /// # Errors
    /// The pooler does not answer, or refuses a command.
    pub(super) fn read(client: &mut ConsoleClient, view: usize) -> anyhow::Result<Self> {
        let command = VIEWS.get(view).map_or("SHOW POOLS", |view| view.command);
        Ok(Self {
            status: client.run("SHOW STATUS")?,
            problems: client.run("SHOW PROBLEMS")?,
            pools: client.run("SHOW POOLS")?.without_console(),
            latencies: client.run("SHOW LATENCIES")?,
            view,
            rows: client.run(command)?.without_console(),
            history: match command {
                "SHOW POOLS" => history(&client.run("SHOW HISTORY")?),
                _ => BTreeMap::new(),
            },
        })
    }

    /// Servers in use and clients that wait in the last five minutes, the oldest sample first.
    pub(super) fn history_of(&self, database: &str, user: &str) -> &[u64] {
        let key = (database.to_owned(), user.to_owned());
        self.history.get(&key).map(Vec::as_slice).unwrap_or_default()
    }

    /// The sum of a column.
    pub(super) fn sum(table: &ConsoleTable, column: &str) -> u64 {
        table.rows.iter().filter_map(|row| table.value(row, column).parse::<u64>().ok()).sum()
    }
}

fn history(table: &ConsoleTable) -> BTreeMap<PoolName, Vec<u64>> {
    let mut all: BTreeMap<PoolName, Vec<u64>> = BTreeMap::new();
    for row in &table.rows {
        let number = |column: &str| table.value(row, column).parse::<u64>().unwrap_or(0);
        let key = (table.value(row, "database").to_owned(), table.value(row, "user").to_owned());
        all.entry(key).or_default().push(number("sv_active") + number("cl_waiting"));
    }
    all
}
