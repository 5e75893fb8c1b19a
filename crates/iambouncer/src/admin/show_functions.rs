//! SHOW FUNCTIONS: what changes the session of the client that uses it, in the databases that were read. Owns its table.

use super::columns::{Records, Table, shown, text};
use super::console::Console;
use crate::session_functions::{FunctionRow, NameUse};

pub(super) static FUNCTIONS: Table<FunctionRow> = Table {
    columns: &[
        text("database", |row| shown(&row.database)),
        text("schema", |row| row.function().map(|function| function.schema.clone())),
        text("name", |row| row.function().map(|function| function.name.clone())),
        text("usage", |row| row.function().map(|function| usage(function.usage).to_owned())),
        text("settings", |row| row.function().map(|function| function.settings.join(", "))),
        text("keeps", |row| row.function().map(|function| function.keeps.join(", "))),
        text("problem", |row| row.problem().map(str::to_owned)),
    ],
    records: Records::Here(|console: &Console| console.context.process.session_functions.rows()),
};

fn usage(usage: NameUse) -> &'static str {
    match usage {
        NameUse::Call => "called",
        NameUse::Write => "written",
        NameUse::Any => "used",
    }
}
