//! `doctor`: finds what prevents a login before clients need one. Owns the order of the checks, each of which depends
//! on the previous ones. It runs on a worker of its own and uses the pooler's login code, so its findings are those
//! of the pooler; it serves no clients and changes nothing on a server.

mod aws;
mod certificate;
pub mod checks;
pub mod report;
mod server;
mod sql;
mod stored;

use crate::config::{Config, Database, Environment, Host, ServerAuth};
use crate::context::{ConfigFiles, Context, on_own_worker};
use crate::health_state::FirstLogin;
use crate::login_failure::LoginFailure;
use crate::process::{Process, ProcessParts};
use crate::server::now_seconds;
use crate::server::signing::Signing;
use aws::AwsChecks;
use checks::{Check, DoctorReport, Finding, TargetReport};
use rds_iam::{Identity, Resolver, TokenEngine};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use tokio::runtime::Handle;

/// Database to try for a `*` line if none is given: every RDS instance has it.
const DEFAULT_DATABASE: &str = "postgres";

/// What to check.
pub struct DoctorRequest {
    /// The configuration and its files.
    pub loaded: ConfigFiles,
    /// Runtime for blocking work.
    pub control: Handle,
    /// Signs IAM tokens.
    pub tokens: TokenEngine,
    /// Resolves host names, with their aliases.
    pub resolver: Option<Resolver>,
    /// Check only this database.
    pub database: Option<String>,
    /// User for lines that have none.
    pub user: Option<String>,
}

/// Checks every target that the configuration names.
///
/// # Errors
/// The kernel refuses a resource that the worker needs, or no random numbers are available.
pub fn examine(request: DoctorRequest, environment: &(dyn Environment + Sync)) -> io::Result<DoctorReport> {
    let passwords = stored::check(&request.loaded, environment, now_seconds());
    let DoctorRequest { loaded, control, tokens, resolver, database, user } = request;
    let paths = target_paths(&loaded.config, database.as_deref(), user.as_deref());
    if let Some(unknown) = database.filter(|_| paths.is_empty()) {
        let finding = unknown_database(&loaded.config, &unknown);
        return Ok(DoctorReport { general: vec![finding, passwords], targets: Vec::new() });
    }
    let parts = ProcessParts {
        control: control.clone(),
        tokens: tokens.clone(),
        resolver,
        own_endpoints: Vec::new(),
        workers: 1,
        first_login: FirstLogin::NotNeeded,
    };
    let process = Process::new(&loaded.config, parts)?;
    let checks = AwsChecks { tokens, identities: process.identities.clone(), environment };
    let mut known = HashMap::new();
    for identity in paths.iter().filter_map(|path| path.identity.as_ref()) {
        if !known.contains_key(identity) {
            known.insert(identity.clone(), control.block_on(checks.check(identity)));
        }
    }
    let targets = on_own_worker(process, loaded, move |context| try_all(context, paths, known))?;
    Ok(DoctorReport { general: vec![passwords], targets })
}

async fn try_all(
    context: Rc<Context>,
    paths: Vec<TargetPath>,
    known: HashMap<Identity, Vec<Finding>>,
) -> Vec<TargetReport> {
    let mut examined = Vec::new();
    for path in paths {
        let mut findings =
            path.identity.as_ref().and_then(|identity| known.get(identity)).cloned().unwrap_or_default();
        match &path.user {
            Some(user) => findings.extend(server::check(&context, &path, user).await),
            None => {
                let text = "the line has no user: use --user";
                findings.push(Finding::not_reached(Check::Login, text));
            }
        }
        let TargetPath { line, database, host, user, .. } = path;
        // With a secret the line's user only names the pool; the finding shows the user on the server.
        let user = user.filter(|_| line.secret_arn.is_none());
        examined.push(TargetReport { database, host: host.to_string(), port: line.port, user, findings });
    }
    examined
}

/// One target: a host of a database line, and the user to log in as.
struct TargetPath {
    /// Its database line.
    line: Database,
    /// Name by which clients request it.
    database: String,
    /// One of the line's hosts.
    host: Host,
    /// User on the server.
    user: Option<String>,
    /// Identity that signs tokens or reads the secret, if any.
    identity: Option<Identity>,
}

fn target_paths(config: &Config, database: Option<&str>, user: Option<&str>) -> Vec<TargetPath> {
    let mut paths = Vec::new();
    for (database, line) in lines(config, database) {
        let user = line.user.as_deref().or(user).map(str::to_owned);
        for host in &line.host {
            let identity = identity_for(line, host, user.as_deref().unwrap_or_default());
            let (line, host) = (line.clone(), host.clone());
            paths.push(TargetPath { line, database: database.clone(), host, user: user.clone(), identity });
        }
    }
    paths
}

/// The lines to try, each with the name that a client would use.
fn lines<'a>(config: &'a Config, wanted: Option<&str>) -> Vec<(String, &'a Database)> {
    if let Some(wanted) = wanted {
        return config.database_for(wanted).map(|line| (wanted.to_owned(), line)).into_iter().collect();
    }
    let named = config.databases.iter().map(|(name, line)| (name.clone(), line));
    // Without a configuration file, the named line and the fallback are the same server.
    let fallback =
        config.fallback.as_ref().filter(|line| !config.databases.values().any(|named| is_same(named, line)));
    let fallback =
        fallback.map(|line| (line.dbname.clone().unwrap_or_else(|| DEFAULT_DATABASE.to_owned()), line));
    named.chain(fallback).collect()
}

fn unknown_database(config: &Config, wanted: &str) -> Finding {
    let known: Vec<&str> = config.databases.keys().map(String::as_str).collect();
    let found = format!("The configured databases are: {}.", known.join(", "));
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

/// The identity that signs, with the region that the login would use, so that the engine fetches its credentials
/// once.
fn identity_for(line: &Database, host: &Host, user: &str) -> Option<Identity> {
    match (line.server_auth, line.secret_key()) {
        (ServerAuth::Iam, _) => {
            let key = Signing::of(line).key(host.tcp(), line.port, user, None);
            Some(key.map_or_else(|_| line.aws_identity(), |key| key.identity))
        }
        (ServerAuth::Password, secret) => secret.map(|key| key.identity),
    }
}
