//! `doctor`: what is in the way of a login, told before anybody waits for one. Owns the order of the checks: each needs
//! those before it. It runs on a worker of its own and uses the pooler's own login, so that it sees what the pooler
//! would see; it serves nobody and changes nothing on a server.

mod aws;
mod certificate;
pub mod checks;
pub mod report;
mod server;
mod sql;
mod stored;

use crate::config::{Config, Database, Environment, Host, ServerAuth};
use crate::context::{ConfigFiles, Context};
use crate::login_failure::LoginFailure;
use crate::process::{Process, ProcessParts};
use crate::server::now_seconds;
use crate::server::signing::Signing;
use crate::worker::reactor::EngineKind;
use crate::worker::{self, workers::Workers};
use aws::AwsChecks;
use checks::{Check, DoctorReport, Finding, TargetReport};
use rds_iam::{Identity, Resolver, TokenEngine};
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use tokio::runtime::Handle;

/// Where a `*` line is tried without a name: the database every RDS instance has.
const USUAL_DATABASE: &str = "postgres";

/// What is to be examined.
pub struct DoctorRequest {
    /// The configuration and its files.
    pub loaded: ConfigFiles,
    /// Where slow work runs.
    pub control: Handle,
    /// IAM tokens.
    pub tokens: TokenEngine,
    /// Names with their aliases.
    pub resolver: Option<Resolver>,
    /// Only this database.
    pub database: Option<String>,
    /// The user, for lines that name none.
    pub user: Option<String>,
}

/// Examines every way to a server that a configuration names.
///
/// # Errors
/// The kernel refuses what a worker needs, or no randomness is to be had.
pub fn examine(order: DoctorRequest, environment: &(dyn Environment + Sync)) -> io::Result<DoctorReport> {
    let passwords = stored::check(&order.loaded, environment, now_seconds());
    let DoctorRequest { loaded, control, tokens, resolver, database, user } = order;
    let ways = ways(&loaded.config, database.as_deref(), user.as_deref());
    if let Some(unknown) = database.filter(|_| ways.is_empty()) {
        let finding = unknown_database(&loaded.config, &unknown);
        return Ok(DoctorReport { general: vec![finding, passwords], targets: Vec::new() });
    }
    let parts = ProcessParts {
        control: control.clone(),
        tokens: tokens.clone(),
        resolver,
        own_endpoints: Vec::new(),
        workers: 1,
        awaits_login: false,
    };
    let process = Process::new(&loaded.config.settings, parts)?;
    let checks = AwsChecks { tokens, identities: process.identities.clone(), environment };
    let mut known = HashMap::new();
    for identity in ways.iter().filter_map(|way| way.identity.as_ref()) {
        if !known.contains_key(identity) {
            known.insert(identity.clone(), control.block_on(checks.check(identity)));
        }
    }
    let targets = on_a_worker(process, loaded, move |context| try_all(context, ways, known))?;
    Ok(DoctorReport { general: vec![passwords], targets })
}

/// Runs `work` on a worker of its own, on this thread.
fn on_a_worker<T, F>(
    process: Arc<Process>,
    loaded: ConfigFiles,
    work: impl FnOnce(Rc<Context>) -> F + 'static,
) -> io::Result<T>
where
    T: 'static,
    F: Future<Output = T>,
{
    let teams = Workers::create(1)?;
    let Some(workers) = teams.into_iter().next() else { return Err(io::Error::other("no worker")) };
    let outcome = Rc::new(RefCell::new(None));
    let sink = outcome.clone();
    let place = workers.clone();
    worker::run(EngineKind::Epoll, &place, async move {
        let done = work(Rc::new(Context::new(process, loaded, workers))).await;
        sink.replace(Some(done));
    })?;
    outcome.take().ok_or_else(|| io::Error::other("the worker ended before its work"))
}

async fn try_all(
    context: Rc<Context>,
    ways: Vec<TargetPath>,
    known: HashMap<Identity, Vec<Finding>>,
) -> Vec<TargetReport> {
    let mut examined = Vec::new();
    for way in ways {
        let mut findings =
            way.identity.as_ref().and_then(|identity| known.get(identity)).cloned().unwrap_or_default();
        match &way.user {
            Some(user) => findings.extend(server::check(&context, &way, user).await),
            None => {
                let text = "the line names no user: give one with --user";
                findings.push(Finding::not_reached(Check::Login, text));
            }
        }
        let TargetPath { line, database, host, user, .. } = way;
        // With a secret the line's user only names the pool; who it is on the server stands in the finding.
        let user = user.filter(|_| line.secret_arn.is_none());
        examined.push(TargetReport { database, host: host.to_string(), port: line.port, user, findings });
    }
    examined
}

/// One way to a server.
struct TargetPath {
    /// Its database line.
    line: Database,
    /// Name that clients use.
    database: String,
    /// One of the line's hosts.
    host: Host,
    /// User on the server.
    user: Option<String>,
    /// Who signs, where tokens are made or a secret is read.
    identity: Option<Identity>,
}

fn ways(config: &Config, database: Option<&str>, user: Option<&str>) -> Vec<TargetPath> {
    let mut ways = Vec::new();
    for (database, line) in lines(config, database) {
        let user = line.user.as_deref().or(user).map(str::to_owned);
        for host in &line.host {
            let identity = identity_for(line, host, user.as_deref().unwrap_or_default());
            let (line, host) = (line.clone(), host.clone());
            ways.push(TargetPath { line, database: database.clone(), host, user: user.clone(), identity });
        }
    }
    ways
}

/// The lines to try, each with the name that a client would use.
fn lines<'a>(config: &'a Config, wanted: Option<&str>) -> Vec<(String, &'a Database)> {
    if let Some(wanted) = wanted {
        return config.database_for(wanted).map(|line| (wanted.to_owned(), line)).into_iter().collect();
    }
    let named = config.databases.iter().map(|(name, line)| (name.clone(), line));
    // Without a file the named line and the fallback are the same server.
    let fallback =
        config.fallback.as_ref().filter(|line| !config.databases.values().any(|named| is_same(named, line)));
    let fallback =
        fallback.map(|line| (line.dbname.clone().unwrap_or_else(|| USUAL_DATABASE.to_owned()), line));
    named.chain(fallback).collect()
}

fn unknown_database(config: &Config, wanted: &str) -> Finding {
    let known: Vec<&str> = config.databases.keys().map(String::as_str).collect();
    let found = format!("There are lines for: {}.", known.join(", "));
    Finding::failure(
        Check::Config,
        format!("no line for database \"{wanted}\""),
        LoginFailure::Configuration,
        Some(&found),
    )
}

fn is_same(one: &Database, other: &Database) -> bool {
    *one == Database { name: one.name.clone(), ..other.clone() }
}

/// Who signs, with the region that the login itself would use: the engine then fetches its credentials only once.
fn identity_for(line: &Database, host: &Host, user: &str) -> Option<Identity> {
    match (line.server_auth, line.secret_key()) {
        (ServerAuth::Iam, _) => {
            let key = Signing::of(line).key(host.tcp(), line.port, user, None);
            Some(key.map_or_else(|_| line.aws_identity(), |key| key.identity))
        }
        (ServerAuth::Password, secret) => secret.map(|key| key.identity),
    }
}
