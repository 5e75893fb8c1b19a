//! Session parameters of PostgreSQL that drivers read and set without need. Owns the values that the console reports for
//! them, which are PgBouncer's; a SET has no effect.

use super::columns::{Column, Records, Table, shown, text};

/// A table of one row that never changes.
pub(super) const fn constant(columns: &'static [Column<()>]) -> Table<()> {
    Table { columns, records: Records::Here(|_| vec![()]) }
}

/// Rows: table, name, value.
macro_rules! parameters {
    ($($table:ident: $name:literal = $value:literal;)*) => {
        $(pub(super) static $table: Table<()> = constant(&[text($name, |()| shown($value))]);)*

        /// Names that SHOW knows.
        const SHOWN: &[&str] = &[$($name),*];
    };
}

parameters! {
    CLIENT_ENCODING: "client_encoding" = "UTF-8";
    DEFAULT_TRANSACTION_ISOLATION: "default_transaction_isolation" = "read committed";
    STANDARD_CONFORMING_STRINGS: "standard_conforming_strings" = "on";
    DATESTYLE: "datestyle" = "ISO";
    TIMEZONE: "timezone" = "GMT";
    EXTRA_FLOAT_DIGITS: "extra_float_digits" = "2";
}

/// Others that drivers set.
const ALSO_SET: &[&str] = &[
    "application_name",
    "bytea_output",
    "intervalstyle",
    "lock_timeout",
    "search_path",
    "statement_timeout",
];

/// True if the console accepts the parameter in SET and in a startup packet, and ignores it.
pub fn is_ignored(name: &str) -> bool {
    SHOWN.iter().chain(ALSO_SET).any(|known| known.eq_ignore_ascii_case(name))
}
