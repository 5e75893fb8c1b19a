//! SHOW SERVER_AUTH: how each server was logged in to, and the token or secret of its pool. Owns its table; shows no secret.

use super::columns::{PendingRecords, Records, Table, int4, int8, shown, text};
use super::console::Console;
use super::show_connections::link;
use super::show_tokens::seconds;
use crate::config::ServerAuth;
use crate::pool::Pool;
use crate::server::ServerInfo;
use crate::worker::{self, executor};
use rds_iam::TokenStatus;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::SystemTime;

/// Tokens, or pools, that are looked at before other tasks of the worker get their turn.
const PER_STEP: usize = 100;

/// A server, with what proves the pool's identity.
pub(super) struct ServerAuthRecord {
    pool: Rc<Pool>,
    info: Rc<ServerInfo>,
    method: ServerMethod,
}

/// How a pool logs in.
#[derive(Clone)]
enum ServerMethod {
    Iam { identity: String, token: Option<TokenTimes> },
    Secret { identity: String },
    Password,
}

/// Age and remaining time of a token, in seconds.
#[derive(Clone, Copy)]
struct TokenTimes {
    age: Option<u64>,
    left: Option<u64>,
}

impl ServerMethod {
    fn of(pool: &Pool, tokens: &TokensInUse) -> Self {
        let line = pool.database.line.borrow();
        let identity = line.aws_identity().to_string();
        if line.server_auth != ServerAuth::Iam {
            return if line.secret_arn.is_some() { Self::Secret { identity } } else { Self::Password };
        }
        let key = (pool.user.to_string(), identity.clone());
        let candidates = tokens.0.get(&key).map(Vec::as_slice).unwrap_or_default();
        let is_of_host = |host: &str| {
            line.iam_host.as_deref() == Some(host) || line.host.iter().any(|known| known.tcp() == Some(host))
        };
        let token = match candidates {
            // The name that is signed may be behind an alias of the host.
            [(_, only)] => Some(*only),
            _ => candidates.iter().find(|(host, _)| is_of_host(host)).map(|(_, times)| *times),
        };
        Self::Iam { identity, token }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Iam { .. } => "iam",
            Self::Secret { .. } => "secret",
            Self::Password => "password",
        }
    }

    fn identity(&self) -> Option<String> {
        match self {
            Self::Iam { identity, .. } | Self::Secret { identity } => Some(identity.clone()),
            Self::Password => None,
        }
    }

    fn token(&self) -> Option<TokenTimes> {
        match self {
            Self::Iam { token, .. } => *token,
            Self::Secret { .. } | Self::Password => None,
        }
    }
}

pub(super) static SERVER_AUTH: Table<ServerAuthRecord> = Table {
    columns: &[
        text("database", |server| shown(&server.pool.database.name)),
        text("user", |server| shown(&server.pool.user)),
        text("server", |server| shown(&server.info.facts.route.endpoint)),
        text("state", |server| shown(server.info.activity.get().as_str())),
        int4("age", |server| {
            shown(worker::now().saturating_duration_since(server.info.facts.logged_in_at).as_secs())
        }),
        text("auth", |server| shown(server.method.word())),
        text("identity", |server| server.method.identity()),
        int4("token_age", |server| server.method.token()?.age.and_then(shown)),
        int4("token_left", |server| server.method.token()?.left.and_then(shown)),
        text("tls", |server| shown(&server.info.facts.tls)),
        int4("remote_pid", |server| shown(server.info.facts.pid)),
        text("ptr", |server| shown(link('s', server.info.facts.id))),
        int8("id", |server| shown(server.info.facts.id)),
    ],
    records: Records::EachWorkerInSteps(servers),
};

/// Host and times of each token, by user and identity.
struct TokensInUse(HashMap<(String, String), Vec<(String, TokenTimes)>>);

impl TokensInUse {
    async fn read(console: &Console) -> Self {
        let tokens = console.context.process.tokens.snapshot();
        let now = SystemTime::now();
        let mut all: HashMap<_, Vec<_>> = HashMap::new();
        let add = |TokenStatus { key, signed_at, expires_at, .. }: TokenStatus| {
            let times = TokenTimes {
                age: signed_at.map(|at| seconds(at, now)),
                left: expires_at.map(|at| seconds(now, at)),
            };
            let name = (key.user, key.identity.to_string());
            all.entry(name).or_default().push((key.host, times));
        };
        executor::for_each_in_steps(tokens, PER_STEP, add).await;
        Self(all)
    }
}

fn servers(console: Rc<Console>) -> PendingRecords<'static, ServerAuthRecord> {
    Box::pin(async move {
        let tokens = TokensInUse::read(&console).await;
        let mut records = Vec::new();
        let add = |pool: Rc<Pool>| {
            let method = ServerMethod::of(&pool, &tokens);
            let record = |info| ServerAuthRecord { pool: pool.clone(), info, method: method.clone() };
            records.extend(pool.table.list().into_iter().map(record));
        };
        console.directory.visit_pools(PER_STEP, add).await;
        records
    })
}
