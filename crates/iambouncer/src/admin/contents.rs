//! The tables of SHOW commands for callers without a connection to the console: the API, and with it the dashboard. Owns
//! which tables these are.

use super::columns::{ColumnHeader, Row, ShowTable};
use super::console::Console;
use super::table::{COMMANDS, Command, Run};

/// A table of the API.
#[derive(Clone, Copy)]
pub struct TableName {
    command: &'static Command,
    table: &'static dyn ShowTable,
}

/// A table with its rows.
pub struct TableContents {
    /// Name and type of each column.
    pub columns: Vec<ColumnHeader>,
    /// A value for each column; `None` is NULL.
    pub rows: Vec<Row>,
}

impl TableName {
    /// All tables, in the order of the console's help.
    pub fn all() -> impl Iterator<Item = Self> {
        COMMANDS.iter().filter_map(|command| match command.run {
            Run::Rows(table) if command.is_in_api => Some(Self { command, table }),
            _ => None,
        })
    }

    /// The table with this name in the API.
    pub fn find(name: &str) -> Option<Self> {
        Self::all().find(|table| table.name() == name)
    }

    /// The command that shows it.
    pub fn words(self) -> &'static str {
        self.command.words
    }

    /// Its name in the API: `pools` for SHOW POOLS.
    pub fn name(self) -> String {
        self.command.words.trim_start_matches("SHOW ").to_ascii_lowercase()
    }

    /// What it shows, in one line.
    pub fn help(self) -> &'static str {
        self.command.help
    }

    /// Its columns.
    pub fn columns(self) -> Vec<ColumnHeader> {
        self.table.headers()
    }
}

impl Console {
    /// The rows of a table, of all workers.
    pub async fn contents(&self, table: TableName) -> TableContents {
        TableContents { columns: table.columns(), rows: table.table.fetch(self).await }
    }
}
