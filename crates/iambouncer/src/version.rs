//! What this program says it is. Owns the version of PgBouncer whose behaviour it has: tools that read a version from the
//! console choose their queries by it.

/// The version of PgBouncer that tools shall assume.
macro_rules! pgbouncer {
    () => {
        "1.25.2"
    };
}

/// The version of PgBouncer that tools shall assume, as clients receive it in `pgbouncer.version`.
pub const OF_PGBOUNCER: &str = pgbouncer!();
/// Answer to `SHOW VERSION`, and the first line of `--version`.
pub const TEXT: &str =
    concat!("PgBouncer ", pgbouncer!(), " (compatible; iambouncer ", env!("CARGO_PKG_VERSION"), ")");
/// `server_version` on the console.
pub const OF_CONSOLE: &str = concat!(pgbouncer!(), "/bouncer");
/// The text of `--version`.
pub const LINES: &str = concat!(
    "PgBouncer ",
    pgbouncer!(),
    " (compatible; iambouncer ",
    env!("CARGO_PKG_VERSION"),
    ")\nThis is iambouncer ",
    env!("CARGO_PKG_VERSION"),
    ", which behaves as PgBouncer ",
    pgbouncer!(),
    " does."
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_is_that_of_pgbouncer_and_the_text_names_this_program() {
        let number = TEXT.split(|c: char| c != '.' && !c.is_ascii_digit()).find(|word| !word.is_empty());
        assert_eq!(number, Some(OF_PGBOUNCER));
        assert!(TEXT.contains("iambouncer ") && LINES.lines().next() == Some(TEXT));
        assert!(OF_CONSOLE.starts_with(OF_PGBOUNCER));
    }
}
