//! `auth_query`: the password of a client that `auth_file` does not know is looked up on a server. Owns where the query
//! runs, as whom, and what its failures mean; the check of the password is that of any stored one.

use crate::admin;
use crate::auth::lookups::{LookupAnswer, LookupOutcome};
use crate::client_error::{self, ClientError};
use crate::config::{Config, Database, Host, Secret};
use crate::context::Context;
use crate::log_limit::warn_unauthenticated;
use crate::net::{Inbound, Stream};
use crate::server::login;
use crate::server::progress::Progress;
use crate::server::target::LoginTarget;
use crate::sql_client::{self, AnswerLimits, SqlError, TextRow};
use crate::worker::{self, timers};
use std::rc::Rc;

/// Limits of the answer. One row is used; a longer password than this is not accepted from clients either.
const ANSWER_LIMITS: AnswerLimits =
    AnswerLimits { message_bytes: 128 * 1024, messages: 100, rows: 1, bytes: 128 * 1024 };
/// SQLSTATE of a table that may not be read.
const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// Where and as whom the query runs.
pub(super) struct AuthTarget {
    /// The database line.
    line: Database,
    /// The name that clients would use for it.
    database: String,
    auth_user: String,
    query: String,
}

/// How passwords that `auth_file` does not have are looked up: `None` if they are not.
pub(super) type AuthLookup = Result<Option<AuthTarget>, ClientError>;

/// How the password of a client of `database` is looked up. The error concerns only clients that need a look-up.
pub(super) fn target<'a>(
    context: &Context,
    config: &'a Config,
    database: &'a str,
    is_disabled: impl Fn(&str) -> bool,
) -> AuthLookup {
    let settings = &config.settings;
    let own_line = config.database_for(database).filter(|_| database != admin::DATABASE);
    let value = |of_line: fn(&Database) -> Option<&str>, of_all: &'a str| {
        Some(own_line.and_then(of_line).unwrap_or(of_all)).filter(|text| !text.is_empty())
    };
    // Most clients need no look-up, so nothing is copied for them.
    let auth_user = value(|line| line.auth_user.as_deref(), &settings.auth_user);
    let query = value(|line| line.auth_query.as_deref(), &settings.auth_query);
    let (Some(auth_user), Some(query)) = (auth_user, query) else { return Ok(None) };
    let named = value(|line| line.auth_dbname.as_deref(), &settings.auth_dbname);
    let Some(name) = named.or_else(|| own_line.map(|_| database)) else { return Ok(None) };
    if name == admin::DATABASE {
        warn_unauthenticated!(
            context,
            "auth_dbname",
            database,
            "cannot use the reserved \"{}\" database as an auth_dbname",
            admin::DATABASE
        );
        return Err(client_error::auth_query_unusable());
    }
    let Some(line) = config.database_for(name) else {
        warn_unauthenticated!(
            context,
            "auth_dbname",
            database,
            "authentication database \"{name}\" is not configured"
        );
        return Err(client_error::auth_query_unusable());
    };
    if is_disabled(name) {
        return Err(client_error::auth_database_disabled(name));
    }
    Ok(Some(AuthTarget {
        line: line.clone(),
        database: name.to_owned(),
        auth_user: auth_user.to_owned(),
        query: query.to_owned(),
    }))
}

impl AuthTarget {
    /// True if the client claims to be the user that runs the query. Its password is in `auth_file` or nowhere.
    pub(super) fn is_auth_user(&self, user: &str) -> bool {
        self.auth_user == user
    }

    /// Looks up a user.
    pub(super) async fn look_up(&self, context: &Rc<Context>, user: &str) -> LookupOutcome {
        if self.is_auth_user(user) {
            return Ok(LookupAnswer::NoUser);
        }
        let lookups = &context.process.lookups;
        let key = (format!("{}\0{}\0{}", self.database, self.auth_user, self.query), user.to_owned());
        let reuse = context.config().settings.auth_query_reuse;
        lookups.get(key, reuse, self.query(context, user)).await
    }

    async fn query(&self, context: &Rc<Context>, user: &str) -> LookupOutcome {
        let Ok(_permit) = context.process.lookups.queries.acquire().await else {
            return Err(client_error::shutting_down());
        };
        let config = context.config();
        // A connection that was idle may have been closed by the server without a sign of it.
        let idle = context.auth_connections.take(&self.database, &self.auth_user, &config);
        let was_idle = idle.is_some();
        let mut stream = match idle {
            Some(stream) => stream,
            None => self.connect(context).await?,
        };
        let mut answer = self.ask(context, &mut stream, user).await;
        if was_idle && matches!(answer, Err(SqlError::Connection(_))) {
            stream = self.connect(context).await?;
            answer = self.ask(context, &mut stream, user).await;
        }
        let is_usable = match &answer {
            Ok(_) => true,
            Err(SqlError::Refused { severity, .. }) => severity == "ERROR",
            Err(_) => false,
        };
        if is_usable {
            let (database, auth_user) = (&self.database, &self.auth_user);
            context.auth_connections.put(database, auth_user, config, stream, worker::now());
        }
        match answer {
            Ok(rows) => self.interpret(context, rows),
            Err(error) => Err(self.failed(context, &error)),
        }
    }

    async fn ask(
        &self,
        context: &Context,
        stream: &mut Stream,
        user: &str,
    ) -> Result<Vec<TextRow>, SqlError> {
        let limit = context.config().settings.server_connect_timeout;
        let mut inbound = Inbound::default();
        let parameters = [user];
        let asking =
            sql_client::query_with(stream, &mut inbound, &self.query, &parameters, ANSWER_LIMITS, |_| {});
        match timers::timeout(limit, asking).await {
            Some(answer) => answer.map(|answer| answer.rows),
            None => Err(SqlError::Connection(std::io::ErrorKind::TimedOut.into())),
        }
    }

    /// Opens a connection as `auth_user`, to the first host that answers.
    async fn connect(&self, context: &Rc<Context>) -> Result<Stream, ClientError> {
        let mut failure = None;
        for host in &self.line.host {
            match self.log_in(context, host).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(client_error::auth_query_unusable))
    }

    async fn log_in(&self, context: &Rc<Context>, host: &Host) -> Result<Stream, ClientError> {
        let progress = Progress::default();
        let target =
            LoginTarget::for_auth_query(&context.loaded(), &self.line, &self.database, &self.auth_user, host);
        match login::log_in(context, &target, &progress).await {
            Ok(logged_in) => Ok(logged_in.stream),
            Err(error) => {
                let failed = progress.explain(error);
                warn_unauthenticated!(
                    context,
                    "auth_query login",
                    database = self.database,
                    user = self.auth_user,
                    cause = failed.cause.info().id,
                    hint = %failed.hint,
                    "auth_query: {}",
                    failed.error
                );
                Err(failed.to_fault())
            }
        }
    }

    /// The columns are the user's name and its password. Without a row, or with NULL for the name, there is no such user.
    fn interpret(&self, context: &Context, rows: Vec<TextRow>) -> LookupOutcome {
        let Some(row) = rows.into_iter().next() else { return Ok(LookupAnswer::NoUser) };
        let columns = row.len();
        let [name, password] = <[Option<String>; 2]>::try_from(row).map_err(|_| {
            warn_unauthenticated!(
                context,
                "auth_query",
                database = self.database,
                "expected 2 columns from auth_query, not {columns}"
            );
            client_error::auth_query_unusable()
        })?;
        // As in PgBouncer 1.26.
        if name.is_none() {
            return Ok(LookupAnswer::NoUser);
        }
        // An empty password would match a client that sends none.
        Ok(LookupAnswer::User(password.filter(|text| !text.is_empty()).map(Secret::new)))
    }

    fn failed(&self, context: &Context, error: &SqlError) -> ClientError {
        let hint = match error {
            SqlError::Refused { code, .. } if code == INSUFFICIENT_PRIVILEGE => {
                "On RDS no user may read pg_authid or pg_shadow. Use auth_type = iam or iam-sts, or secret_arn on the \
                 database line; where clients have passwords, auth_type = server, which has the server verify them, or \
                 have auth_query call a SECURITY DEFINER function that reads a table of your own."
            }
            _ => "",
        };
        warn_unauthenticated!(
            context,
            "auth_query",
            database = self.database,
            user = self.auth_user,
            hint,
            "auth_query failed: {error}"
        );
        client_error::auth_query_unusable()
    }
}
