//! `drill`: clients that write through a pooler while its database fails over, and what became of their entries. Owns the
//! order: a table, clients, the comparison of the table with what was reported to the clients. It runs on a worker of its own,
//! with the pooler's login code, and knows nothing about the pooler that it tests.

mod history;
mod report;
mod writer;

pub use report::{DrillReport, json, text};

use crate::config::{Database, Secret};
use crate::context::{ConfigFiles, Context, on_own_worker};
use crate::health_state::FirstLogin;
use crate::net::Inbound;
use crate::process::{Process, ProcessParts};
use crate::server::login::{self, LoginResult};
use crate::server::progress::Progress;
use crate::server::target::{Credential, LoginTarget};
use crate::sql_client::{self, AnswerLimits, SqlError, TextRow};
use crate::worker::{self, executor, timers};
use history::WrittenEntry;
use rds_iam::{AwsCredentials, TokenEngine};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tokio::runtime::Handle;

/// How long the table can be asked for after the last entry.
const CHECK_LIMIT: Duration = Duration::from_secs(120);
/// Pause between two attempts to log in.
const LOGIN_PAUSE: Duration = Duration::from_millis(100);
/// Interval at which the end of all clients is looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Longest time for an answer: more than `query_wait_timeout` of the pooler.
const QUERY_LIMIT: Duration = Duration::from_secs(180);
/// Limits on answers.
const ANSWER_LIMITS: AnswerLimits =
    AnswerLimits { message_bytes: 64 * 1024, messages: 40_000, rows: 20_000, bytes: 4 * 1024 * 1024 };

/// What to do.
pub struct DrillRequest {
    /// The configuration with which logins are made.
    pub loaded: ConfigFiles,
    /// Runtime for blocking work.
    pub control: Handle,
    /// The pooler and the database.
    pub line: Database,
    /// The user.
    pub user: String,
    /// Its password, if it has one.
    pub password: Option<Secret>,
    /// Number of clients.
    pub clients: u32,
    /// Entries per second, of all clients together.
    pub rate: u32,
    /// How long clients write.
    pub duration: Duration,
    /// The table, which is created and dropped.
    pub table: String,
    /// Set when clients are to stop early.
    pub is_interrupted: Arc<AtomicBool>,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// The system refuses a resource.
    #[error("cannot run: {0}")]
    System(#[from] io::Error),
    /// The table cannot be created.
    #[error("the table cannot be created: {0}")]
    NoTable(String),
    /// The table cannot be read after the last entry.
    #[error("the table cannot be read: {0}")]
    Unread(String),
}

/// What the tasks of the clients share.
struct Drill {
    context: Rc<Context>,
    target: LoginTarget,
    table: String,
    /// Time between two entries of one client.
    interval: Duration,
    ends_at: Instant,
    is_interrupted: Arc<AtomicBool>,
    /// The number of the next entry.
    next_entry: Cell<u64>,
    attempts: RefCell<Vec<WrittenEntry>>,
    running: Cell<u32>,
}

/// Lets clients write, and compares the table with what was reported to them. Blocks until the end.
///
/// # Errors
/// See [`DrillError`].
pub fn run(request: DrillRequest) -> Result<DrillReport, DrillError> {
    let parts = ProcessParts {
        control: request.control.clone(),
        tokens: TokenEngine::new(AwsCredentials::shared()),
        resolver: None,
        own_endpoints: Vec::new(),
        workers: 1,
        first_login: FirstLogin::NotNeeded,
    };
    let process = Process::new(&request.loaded.config, parts)?;
    let loaded = request.loaded.clone();
    on_own_worker(process, loaded, move |context| drill(context, request))?
}

async fn drill(context: Rc<Context>, request: DrillRequest) -> Result<DrillReport, DrillError> {
    let credential = request.password.clone().map_or(Credential::None, Credential::Password);
    let loaded = context.loaded();
    let host = request.line.host.first().cloned();
    let host = host.ok_or_else(|| DrillError::NoTable("no host".to_owned()))?;
    let target =
        LoginTarget::bare(&loaded, &request.line, &request.line.name, &request.user, &host, credential);
    let clients = request.clients.max(1);
    let drill = Rc::new(Drill {
        context,
        target,
        table: request.table,
        interval: Duration::from_secs(1) * clients / request.rate.max(1),
        ends_at: worker::now() + request.duration,
        is_interrupted: request.is_interrupted,
        next_entry: Cell::new(0),
        attempts: RefCell::default(),
        running: Cell::new(clients),
    });
    drill.create_table().await?;
    let clock = (Instant::now(), SystemTime::now());
    for number in 0..clients {
        executor::spawn(writer::write(drill.clone(), number));
    }
    while drill.running.get() > 0 {
        timers::sleep(LOOK_INTERVAL).await;
    }
    let ended_at = worker::now();
    let found = drill.read_table().await?;
    let report = DrillReport::new(&drill.attempts.borrow(), &found, clock, ended_at);
    if !report.is_bad() {
        drill.drop_table().await;
    }
    Ok(report)
}

/// A logged-in connection.
struct DrillSession {
    login: LoginResult,
    inbound: Inbound,
}

impl DrillSession {
    async fn query(&mut self, sql: &str) -> Result<Vec<TextRow>, SqlError> {
        let stream = &mut self.login.stream;
        let asked = sql_client::query(stream, &mut self.inbound, sql, ANSWER_LIMITS, |_| ());
        let too_late = || Err(SqlError::Connection(io::ErrorKind::TimedOut.into()));
        timers::timeout(QUERY_LIMIT, asked).await.unwrap_or_else(too_late).map(|answer| answer.rows)
    }
}

impl Drill {
    async fn log_in(&self) -> Result<DrillSession, String> {
        let progress = Progress::default();
        let logged_in = login::log_in(&self.context, &self.target, &progress).await;
        let login = logged_in.map_err(|error| error.to_string())?;
        Ok(DrillSession { login, inbound: Inbound::default() })
    }

    fn is_over(&self) -> bool {
        worker::now() >= self.ends_at || self.is_interrupted.load(Ordering::Relaxed)
    }

    async fn create_table(&self) -> Result<(), DrillError> {
        let mut session = self.log_in().await.map_err(DrillError::NoTable)?;
        let sql = format!("CREATE TABLE {} (entry bigint NOT NULL)", self.table);
        let created = session.query(&sql).await;
        session.login.close();
        created.map(drop).map_err(|error| DrillError::NoTable(error.to_string()))
    }

    /// The entries of the table, and how often it has each. The database may still be failing over.
    async fn read_table(&self) -> Result<Vec<(u64, u64)>, DrillError> {
        let gives_up_at = worker::now() + CHECK_LIMIT;
        loop {
            let error = match self.try_to_read().await {
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            if worker::now() >= gives_up_at {
                return Err(DrillError::Unread(error));
            }
            timers::sleep(LOGIN_PAUSE).await;
        }
    }

    async fn try_to_read(&self) -> Result<Vec<(u64, u64)>, String> {
        let mut session = self.log_in().await?;
        let mut found = Vec::new();
        let (mut from, last) = (0, self.next_entry.get());
        while from < last {
            let to = from + history::ENTRIES_PER_READ;
            let sql = format!(
                "SELECT entry, count(*) FROM {} WHERE entry >= {from} AND entry < {to} GROUP BY entry",
                self.table
            );
            let rows = session.query(&sql).await.map_err(|error| error.to_string())?;
            found.extend(rows.iter().filter_map(history::row));
            from = to;
        }
        session.login.close();
        Ok(found)
    }

    /// A table whose entries are not as expected is left for an examination, as is one that cannot be dropped.
    async fn drop_table(&self) {
        if let Ok(mut session) = self.log_in().await {
            let _ = session.query(&format!("DROP TABLE {}", self.table)).await;
            session.login.close();
        }
    }
}
