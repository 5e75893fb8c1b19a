//! SHOW PROBLEMS: what is wrong now, in plain words, and what to do. Owns the rules and their texts; what they are about is in the
//! other tables.

use super::columns::{ColumnHeader, PendingRows, Row, ShowTable, shown};
use super::console::Console;
use super::show_connections::wait;
use super::show_status;
use crate::clients::{ClientInfo, ClientState};
use crate::pool::{DatabaseState, Pool};
use crate::stats::last_failures::FailedLogin;
use crate::stats::snapshot::PoolName;
use crate::worker::executor;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::time::{Duration, SystemTime};
use wire::encode::ColumnType;

/// A wait of this length is an error, a shorter one a warning.
const LONG_WAIT: Duration = Duration::from_secs(1);
/// Tokens and credentials are renewed far earlier.
const EXPIRES_SOON: Duration = Duration::from_secs(120);
/// Pools, or databases, that are looked at before other tasks of the worker get their turn.
const POOLS_PER_STEP: usize = 100;
/// A worker that computes for more of its time than this delays its clients.
const BUSY_PERCENT: f64 = 90.0;
/// Number of problems of each kind that are shown.
const MAX_OF_KIND: usize = 20;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum ProblemLevel {
    Error,
    Warning,
}

impl ProblemLevel {
    fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Problem {
    severity: ProblemLevel,
    text: String,
}

fn error(text: String) -> Problem {
    Problem { severity: ProblemLevel::Error, text }
}

fn warning(text: String) -> Problem {
    Problem { severity: ProblemLevel::Warning, text }
}

/// Database, user and reason.
type WaitKey = (String, String, &'static str);

/// Clients that wait for the same reason.
struct WaitGroup {
    clients: usize,
    longest: Duration,
    detail: String,
}

/// What one worker knows.
#[derive(Default)]
struct WorkerProblems {
    waits: BTreeMap<WaitKey, WaitGroup>,
    /// Pools whose last login has failed.
    failing: BTreeSet<PoolName>,
    paused: BTreeSet<String>,
    disabled: BTreeSet<String>,
    busy: Option<(usize, f64)>,
}

impl WorkerProblems {
    async fn of(console: &Console) -> Self {
        let mut part = Self::default();
        let mut waiting: HashMap<*const Pool, (Rc<Pool>, usize, Duration)> = HashMap::new();
        let count = |client: &Rc<ClientInfo>| {
            let pool = client.pool.get().filter(|_| client.state.get() == ClientState::Waiting);
            if let Some(pool) = pool {
                let (_, clients, longest) =
                    waiting.entry(Rc::as_ptr(pool)).or_insert_with(|| (pool.clone(), 0, Duration::ZERO));
                *clients += 1;
                *longest = wait(client).max(*longest);
            }
        };
        console.clients.visit_in_steps(count).await;
        let add_wait = |(pool, clients, longest): (Rc<Pool>, usize, Duration)| {
            let reason = pool.wait_reason();
            let key = (pool.database.name.to_string(), pool.user.to_string(), reason.as_str());
            part.waits.insert(key, WaitGroup { clients, longest, detail: reason.to_string() });
        };
        executor::for_each_in_steps(waiting.into_values(), POOLS_PER_STEP, add_wait).await;
        let add_failing = |pool: Rc<Pool>| {
            if pool.is_login_failing() {
                part.failing.insert((pool.database.name.to_string(), pool.user.to_string()));
            }
        };
        console.directory.visit_pools(POOLS_PER_STEP, add_failing).await;
        let add_stopped = |database: Rc<DatabaseState>| {
            if database.paused.get() {
                part.paused.insert(database.name.to_string());
            }
            if database.disabled.get() {
                part.disabled.insert(database.name.to_string());
            }
        };
        console.directory.visit_databases(POOLS_PER_STEP, add_stopped).await;
        let load = console.context.load.percent();
        part.busy = (load >= BUSY_PERCENT).then_some((console.context.worker.index(), load));
        part
    }

    fn add(&mut self, other: Self) {
        for (key, group) in other.waits {
            let sum = self.waits.entry(key).or_insert_with(|| WaitGroup {
                clients: 0,
                longest: Duration::ZERO,
                detail: group.detail,
            });
            sum.clients += group.clients;
            sum.longest = sum.longest.max(group.longest);
        }
        self.failing.extend(other.failing);
        self.paused.extend(other.paused);
        self.disabled.extend(other.disabled);
    }

    fn problems(self) -> Vec<Problem> {
        let wait_text = |((database, user, _), group): (WaitKey, WaitGroup)| {
            let WaitGroup { clients, longest, detail } = group;
            let verb = if clients == 1 { "client waits" } else { "clients wait" };
            let text = format!(
                "{clients} {verb} for a server of {database}/{user}, for up to {:.1} s: {detail}",
                longest.as_secs_f64()
            );
            if longest >= LONG_WAIT { error(text) } else { warning(text) }
        };
        let waits = self.waits.into_iter().take(MAX_OF_KIND).map(wait_text);
        let paused = self.paused.iter().take(MAX_OF_KIND);
        let paused = paused.map(|name| warning(format!("the database {name} is paused; RESUME ends that")));
        let disabled = self.disabled.iter().take(MAX_OF_KIND);
        let disabled = disabled
            .map(|name| warning(format!("the database {name} refuses new clients; ENABLE ends that")));
        waits.chain(paused).chain(disabled).collect()
    }
}

/// The state of the process.
fn of_process(console: &Console) -> Vec<Problem> {
    let mut found = Vec::new();
    match show_status::state(console) {
        "running" => {}
        "paused" => found.push(warning("all databases are paused; RESUME ends that".to_owned())),
        state => found.push(warning(format!("the pooler is {}", state.replace('_', " ")))),
    }
    let health = &console.context.process.health;
    if !health.is_ready() {
        found.push(warning("the readiness probe fails".to_owned()));
    }
    if !health.last_reload().is_last_good {
        found
            .push(error("the last RELOAD found an error and changed nothing; SHOW EVENTS has it".to_owned()));
    }
    found
}

/// Logins, tokens and secrets.
fn of_identities(console: &Console, failing: &BTreeSet<PoolName>, now: SystemTime) -> Vec<Problem> {
    let process = &console.context.process;
    let failures = process.logins.last_failures.list().into_iter();
    // The table also has failures of pools that no longer exist, or that RELOAD has discarded.
    let failing = failures.filter(|(pool, _)| failing.contains(pool)).map(|((database, user), known)| {
        let FailedLogin { message, remedy, .. } = known.last;
        error(format!("logins of the user {user} to the database {database} fail: {message}. {remedy}"))
    });
    let in_use = process.tokens.snapshot().into_iter().filter(|token| token.is_in_use(now));
    let tokens = in_use.filter_map(|token| {
        let name = format!("the token of {} for {}:{}", token.key.user, token.key.host, token.key.port);
        let left = token.expires_at.map(|at| at.duration_since(now).unwrap_or_default());
        match (token.last_error, left) {
            (Some(reason), _) => Some(error(format!("{name} cannot be renewed: {reason}"))),
            (None, Some(left)) if left < EXPIRES_SOON => {
                Some(error(format!("{name} expires in {} s and was not renewed", left.as_secs())))
            }
            _ => None,
        }
    });
    let secrets = process.secrets.snapshot().into_iter().filter_map(|secret| {
        let reason = secret.last_error?;
        Some(error(format!("the secret {} cannot be read: {reason}", secret.key.arn)))
    });
    failing.take(MAX_OF_KIND).chain(tokens.take(MAX_OF_KIND)).chain(secrets.take(MAX_OF_KIND)).collect()
}

pub(super) struct ProblemsTable;

pub(super) static PROBLEMS: ProblemsTable = ProblemsTable;

impl ShowTable for ProblemsTable {
    fn headers(&self) -> Vec<ColumnHeader> {
        vec![("severity", ColumnType::Text), ("problem", ColumnType::Text)]
    }

    fn fetch<'a>(&'static self, console: &'a Console) -> PendingRows<'a> {
        Box::pin(async move {
            let parts = console.at_all(|console| async move { WorkerProblems::of(&console).await }).await;
            let mut sum = WorkerProblems::default();
            let mut problems = of_process(console);
            for part in parts {
                if let Some((worker, load)) = part.busy {
                    problems.push(warning(format!("worker {worker} computes for {load:.0} % of the time")));
                }
                sum.add(part);
            }
            problems.extend(of_identities(console, &sum.failing, SystemTime::now()));
            problems.extend(sum.problems());
            problems.sort();
            let row =
                |problem: Problem| -> Row { vec![shown(problem.severity.as_str()), shown(problem.text)] };
            problems.into_iter().map(row).collect()
        })
    }
}
