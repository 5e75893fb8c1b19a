//! Reading the functions of a database on one of its servers. Owns the order of the queries and their bounds; what is
//! known belongs to [`crate::session_functions`].

use super::{Server, reset};
use crate::context::Context;
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
#[derive(Debug, thiserror::Error)]
pub enum UnreadFunctions {
    /// The server can be used nevertheless.
    #[error("{0}")]
    Refused(String),
    /// It cannot be used, but others might be without this reading.
    #[error("{0}")]
    Misunderstood(String),
    /// The connection has failed.
    #[error("the connection failed")]
    Lost,
}

/// What was found in the catalog of a server's database.
pub struct CatalogRead {
    /// Changes with the settings with which a session begins.
    pub login_settings: String,
    /// `None` if the functions are those of the fingerprint that is known.
    pub functions: Option<FunctionsRead>,
}

/// Reads the catalog of a server's database. The functions are not read again if they are those of the fingerprint `known`. The
/// sources are judged on a thread of the control runtime.
///
/// # Errors
/// The server refuses a query, or sends what was not asked for; the connection fails.
pub async fn read(
    context: &Context,
    server: &mut Server,
    doubt: Doubt,
    known: Option<&str>,
) -> Result<CatalogRead, UnreadFunctions> {
    let mut reader = CatalogReader { context, server, doubt, catalog: Catalog::default() };
    let mut rows = reader.ask(&queries::fingerprint()).await?;
    let (fingerprint, version, login_settings) = match rows.pop().as_deref() {
        Some([Some(fingerprint), Some(version), Some(settings)]) => {
            (fingerprint.clone(), version.parse().unwrap_or(0), settings.clone())
        }
        _ => return Err(malformed()),
    };
    if known == Some(&*fingerprint) {
        return Ok(CatalogRead { login_settings, functions: None });
    }
    reader.read_catalog(version >= PARSED_BODIES_SINCE).await?;
    let functions = Some(FunctionsRead { fingerprint, catalog: reader.catalog });
    Ok(CatalogRead { login_settings, functions })
}

struct CatalogReader<'a> {
    context: &'a Context,
    server: &'a mut Server,
    doubt: Doubt,
    catalog: Catalog,
}

impl CatalogReader<'_> {
    async fn read_catalog(&mut self, has_parsed_bodies: bool) -> Result<(), UnreadFunctions> {
        self.add_routines(&queries::candidates(has_parsed_bodies, self.doubt == Doubt::Opaque)).await?;
        for _ in 0..MAX_ROUNDS {
            self.spread().await?;
            let routines = self.catalog.unasked_routines();
            if !routines.is_empty() {
                for row in self.ask(&queries::users(&routines)).await? {
                    self.catalog.add_edge(queries::edge(row).ok_or_else(malformed)?);
                }
                self.spread().await?;
            }
            let names = self.catalog.unasked_names();
            if names.is_empty() {
                return Ok(());
            }
            if names.len() > MAX_NAMES {
                self.catalog.add_problem(format!("more than {MAX_NAMES} functions change the session"));
                return Ok(());
            }
            for names in names.chunks(NAMES_PER_QUERY) {
                let names = names.iter().map(String::as_str);
                self.add_routines(&queries::callers(has_parsed_bodies, names)).await?;
            }
        }
        self.catalog.add_problem(format!("functions call each other over more than {MAX_ROUNDS} levels"));
        Ok(())
    }

    async fn add_routines(&mut self, sql: &str) -> Result<(), UnreadFunctions> {
        let rows = self.ask(sql).await?;
        let doubt = self.doubt;
        self.with_catalog(move |catalog| {
            for row in rows {
                catalog.add_routine(queries::routine(row, doubt).ok_or_else(malformed)?);
            }
            Ok(())
        })
        .await
    }

    async fn spread(&mut self) -> Result<(), UnreadFunctions> {
        self.with_catalog(|catalog| {
            catalog.spread();
            Ok(())
        })
        .await
    }

    /// Changes the catalog on another thread: there may be megabytes of sources.
    async fn with_catalog(
        &mut self,
        change: impl FnOnce(&mut Catalog) -> Result<(), UnreadFunctions> + Send + 'static,
    ) -> Result<(), UnreadFunctions> {
        let mut catalog = std::mem::take(&mut self.catalog);
        let work = move || change(&mut catalog).map(|()| catalog);
        let stopped = || Err(UnreadFunctions::Refused("the control runtime has stopped".to_owned()));
        self.catalog = self.context.blocking(work).await.unwrap_or_else(stopped)?;
        Ok(())
    }

    async fn ask(&mut self, sql: &str) -> Result<Vec<TextRow>, UnreadFunctions> {
        match reset::ask(self.server, &self.context.parameters, sql, LIMITS, WHEN).await {
            Ok(answer) => {
                if answer.is_truncated || answer.rows.len() >= MAX_ROWS {
                    self.catalog.add_problem("there are more functions than are read".to_owned());
                }
                Ok(answer.rows)
            }
            Err(SqlError::Refused { severity, message, .. }) if severity == "ERROR" => {
                Err(UnreadFunctions::Refused(message))
            }
            Err(SqlError::Connection(_) | SqlError::Refused { .. }) => Err(UnreadFunctions::Lost),
            Err(error) => Err(UnreadFunctions::Misunderstood(error.to_string())),
        }
    }
}

fn malformed() -> UnreadFunctions {
    UnreadFunctions::Refused("a row has another form".to_owned())
}
