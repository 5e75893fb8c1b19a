//! SHOW SERVER_AUTH: how each server was logged in to, and the token or secret of its pool. Owns its table; shows no secret.

use super::columns::{Records, Table, int4, int8, shown, text};
use super::console::Console;
use super::show_connections::link;
use crate::config::ServerAuth;
use crate::pool::Pool;
use crate::server::ServerInfo;
use crate::worker;
use rds_iam::TokenStatus;
use std::rc::Rc;
use std::time::SystemTime;

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
    fn of(pool: &Pool, tokens: &[TokenStatus], now: SystemTime) -> Self {
        let line = pool.database.line.borrow();
        let identity = line.aws_identity().to_string();
        if line.server_auth != ServerAuth::Iam {
            return if line.secret_arn.is_some() { Self::Secret { identity } } else { Self::Password };
        }
        let is_of_pool = |token: &&TokenStatus| {
            *token.key.user == *pool.user && token.key.identity.to_string() == identity
        };
        // The name that is signed may be behind an alias of the host.
        let is_of_host = |token: &&TokenStatus| {
            line.iam_host.as_deref() == Some(&*token.key.host)
                || line.host.iter().any(|host| host.tcp() == Some(&*token.key.host))
        };
        let mut candidates = tokens.iter().filter(is_of_pool);
        let token =
            candidates.clone().find(is_of_host).or_else(|| candidates.next()).map(|token| TokenTimes {
                age: token.signed_at.map(|at| seconds(at, now)),
                left: token.expires_at.map(|at| seconds(now, at)),
            });
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

fn seconds(from: SystemTime, to: SystemTime) -> u64 {
    to.duration_since(from).unwrap_or_default().as_secs()
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
    records: Records::EachWorker(servers),
};

fn servers(console: &Console) -> Vec<ServerAuthRecord> {
    let tokens = console.context.process.tokens.snapshot();
    let now = SystemTime::now();
    let of_pool = |pool: Rc<Pool>| {
        let method = ServerMethod::of(&pool, &tokens, now);
        let servers = pool.table.list().into_iter();
        servers.map(move |info| ServerAuthRecord { pool: pool.clone(), info, method: method.clone() })
    };
    console.directory.pools().into_iter().flat_map(of_pool).collect()
}
