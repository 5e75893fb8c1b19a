//! Reading the functions of a database on one of its servers. Owns the order of the queries and their bounds; what is
//! known belongs to [`crate::session_functions`].

use super::{Server, reset};
use crate::parameters::Parameters;
use crate::session_functions::queries::{self, LIMITS, MAX_ROWS};
use crate::session_functions::{Catalog, FunctionsRead};
use crate::sql_client::{SqlError, TextRow};
use sql::routines::Doubt;

/// Maximum number of times that callers of what was found are looked for.
const MAX_ROUNDS: usize = 16;
/// Maximum number of names in one query for callers.
const NAMES_PER_QUERY: usize = 200;
/// Maximum number of names with an effect.
const MAX_NAMES: usize = 4000;
/// The first version whose functions may have a parsed body, as in `server_version_num`.
const PARSED_BODIES_SINCE: u32 = 140_000;
/// For the log.
const WHEN: &str = "while the functions of the database were read";

/// Why nothing was read.
pub enum UnreadFunctions {
    /// The server can be used nevertheless.
    Refused(String),
    /// It cannot be used.
    Unusable,
}

/// Reads the functions of a server's database; `None` if they are those of the fingerprint `known`.
///
/// # Errors
/// The server refuses a query, there are too many functions, or the connection fails.
pub async fn read(
    server: &mut Server,
    parameters: &Parameters,
    doubt: Doubt,
    known: Option<&str>,
) -> Result<Option<FunctionsRead>, UnreadFunctions> {
    let mut reader = CatalogReader { server, parameters };
    let mut rows = reader.ask(&queries::fingerprint()).await?;
    let (fingerprint, version) = match rows.pop().as_deref() {
        Some([Some(fingerprint), Some(version)]) => (fingerprint.clone(), version.parse().unwrap_or(0)),
        _ => return Err(UnreadFunctions::Refused("the answer has another form".to_owned())),
    };
    if known == Some(&*fingerprint) {
        return Ok(None);
    }
    let catalog = reader.read_catalog(doubt, version >= PARSED_BODIES_SINCE).await?;
    Ok(Some(FunctionsRead { fingerprint, catalog }))
}

struct CatalogReader<'a> {
    server: &'a mut Server,
    parameters: &'a Parameters,
}

impl CatalogReader<'_> {
    async fn read_catalog(
        &mut self,
        doubt: Doubt,
        has_parsed_bodies: bool,
    ) -> Result<Catalog, UnreadFunctions> {
        let mut catalog = Catalog::default();
        let sql = queries::candidates(has_parsed_bodies, doubt == Doubt::Opaque);
        for row in self.ask(&sql).await? {
            catalog.add_routine(queries::routine(row).ok_or_else(malformed)?);
        }
        for _ in 0..MAX_ROUNDS {
            catalog.spread(doubt);
            let routines = catalog.unasked_routines();
            if !routines.is_empty() {
                for row in self.ask(&queries::users(&routines)).await? {
                    catalog.add_edge(queries::edge(row).ok_or_else(malformed)?);
                }
                catalog.spread(doubt);
            }
            let names = catalog.unasked_names();
            if names.is_empty() {
                return Ok(catalog);
            }
            if names.len() > MAX_NAMES {
                return Err(UnreadFunctions::Refused(format!(
                    "more than {MAX_NAMES} functions change the session"
                )));
            }
            for names in names.chunks(NAMES_PER_QUERY) {
                let sql = queries::callers(has_parsed_bodies, names.iter().map(String::as_str));
                for row in self.ask(&sql).await? {
                    catalog.add_routine(queries::routine(row).ok_or_else(malformed)?);
                }
            }
        }
        Err(UnreadFunctions::Refused(format!("functions call each other over more than {MAX_ROUNDS} levels")))
    }

    async fn ask(&mut self, sql: &str) -> Result<Vec<TextRow>, UnreadFunctions> {
        match reset::ask(self.server, self.parameters, sql, LIMITS, WHEN).await {
            Ok(answer) if answer.rows.len() >= MAX_ROWS => {
                Err(UnreadFunctions::Refused(format!("more than {MAX_ROWS} functions would have to be read")))
            }
            Ok(answer) => Ok(answer.rows),
            Err(SqlError::Refused { severity, message, .. }) if severity == "ERROR" => {
                Err(UnreadFunctions::Refused(message))
            }
            Err(_) => Err(UnreadFunctions::Unusable),
        }
    }
}

fn malformed() -> UnreadFunctions {
    UnreadFunctions::Refused("a row has another form".to_owned())
}
