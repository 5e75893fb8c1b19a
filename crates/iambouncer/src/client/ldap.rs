//! `ldap`: the client's password is verified by a bind to an LDAP server. Owns the order of connections, search and
//! bind, which run on the control thread, and their limits. Whatever the reason, a refused client receives the same
//! message; the log has the reason.

use super::authenticate::{Login, LoginRefusal};
use crate::client_error;
use crate::config::{LdapLookup, LdapOptions, LdapScope, LdapTransport, Secret, USERNAME_PLACEHOLDER};
use crate::context::Context;
use crate::log_limit::warn_unauthenticated;
use ldap3::{Ldap, LdapConnAsync, LdapConnSettings, LdapError, Scope, SearchEntry, SearchOptions};
use rustls::ClientConfig;
use std::net::Ipv6Addr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// Longest time for a connection to one server, with TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest time for the answer to one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest time for the whole login, with all servers.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(15);
/// Entries requested from a search: one more than is accepted.
const MAX_ENTRIES: usize = 2;

/// Why a password was not verified.
#[derive(Debug, thiserror::Error)]
enum LdapFault {
    #[error("no password")]
    NoPassword,
    #[error("too many logins by LDAP, or the pooler is stopping")]
    Abandoned,
    #[error("no answer in time")]
    TimedOut,
    #[error("could not connect to LDAP server {server}: {error}")]
    Connect { server: String, error: LdapError },
    #[error("could not perform initial LDAP bind for ldapbinddn \"{dn}\" on server {server}: {error}")]
    SearchBind { dn: String, server: String, error: LdapError },
    #[error("could not search LDAP for filter \"{filter}\" on server {server}: {error}")]
    Search { filter: String, server: String, error: LdapError },
    #[error(
        "LDAP user does not exist: the search for filter \"{filter}\" on server {server} returned no entries"
    )]
    NoEntry { filter: String, server: String },
    #[error(
        "LDAP user is not unique: the search for filter \"{filter}\" on server {server} returned several entries"
    )]
    SeveralEntries { filter: String, server: String },
    #[error("LDAP login failed for user {dn} on server {server}: {error}")]
    Bind { dn: String, server: String, error: LdapError },
}

/// Requests the client's password and has an LDAP server verify it. Returns the password, with which the pool can log
/// in to servers.
pub(super) async fn prove(
    context: &Rc<Context>,
    login: &mut Login<'_>,
    options: Arc<LdapOptions>,
) -> Result<Secret, LoginRefusal> {
    let password = Secret::new(login.ask_cleartext().await?.as_str());
    let user = login.user;
    let request = LdapLogin {
        options,
        tls: context.loaded().ldap_tls.clone(),
        user: user.to_owned(),
        password: password.clone(),
    };
    match request.run_on_control(context).await {
        Ok(()) => Ok(password),
        Err(fault) => {
            warn_unauthenticated!(context, "ldap", user, "{fault}");
            Err(LoginRefusal::Error(client_error::ldap_refused()))
        }
    }
}

/// One password to verify.
struct LdapLogin {
    options: Arc<LdapOptions>,
    /// Set if any options need TLS.
    tls: Option<Arc<ClientConfig>>,
    user: String,
    password: Secret,
}

impl LdapLogin {
    async fn run_on_control(self, context: &Context) -> Result<(), LdapFault> {
        // A server would take a bind without a password for an anonymous one, and accept it (RFC 4513, 5.1.2).
        if self.password.expose().is_empty() {
            return Err(LdapFault::NoPassword);
        }
        let permit = context.process.ldap_logins.clone().acquire_owned().await;
        let permit = permit.map_err(|_| LdapFault::Abandoned)?;
        let verifying = async move {
            // Also if the client disconnects, the place is taken until the login has ended.
            let _permit = permit;
            tokio::time::timeout(LOGIN_TIMEOUT, self.run()).await.unwrap_or(Err(LdapFault::TimedOut))
        };
        context.on_control(verifying).await.unwrap_or(Err(LdapFault::Abandoned))
    }

    /// Asks the first server that can be reached.
    async fn run(&self) -> Result<(), LdapFault> {
        let mut fault = LdapFault::TimedOut;
        for server in &self.options.servers {
            match self.connect(server).await {
                Ok(mut connection) => return self.verify(&mut connection.ldap, server).await,
                Err(error) => fault = LdapFault::Connect { server: server.clone(), error },
            }
        }
        Err(fault)
    }

    async fn connect(&self, server: &str) -> Result<LdapConnection, LdapError> {
        let LdapOptions { port, transport, .. } = *self.options;
        let mut settings = LdapConnSettings::new()
            .set_conn_timeout(CONNECT_TIMEOUT)
            .set_starttls(transport == LdapTransport::StartTls);
        if let Some(tls) = &self.tls {
            settings = settings.set_config(tls.clone());
        }
        let scheme = if transport == LdapTransport::Ldaps { "ldaps" } else { "ldap" };
        let url = match server.parse::<Ipv6Addr>() {
            Ok(address) => format!("{scheme}://[{address}]:{port}"),
            Err(_) => format!("{scheme}://{server}:{port}"),
        };
        let (connection, ldap) = LdapConnAsync::with_settings(settings, &url).await?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.drive().await {
                tracing::debug!(%error, "connection to an LDAP server ended");
            }
        });
        Ok(LdapConnection { ldap, driver })
    }

    async fn verify(&self, ldap: &mut Ldap, server: &str) -> Result<(), LdapFault> {
        let dn = match &self.options.lookup {
            LdapLookup::Affixes { prefix, suffix } => {
                format!("{prefix}{}{suffix}", ldap3::dn_escape(self.user.as_str()))
            }
            LdapLookup::Search { bind_dn, bind_password, .. } => {
                bind(ldap, bind_dn, bind_password).await.map_err(|error| LdapFault::SearchBind {
                    dn: bind_dn.clone(),
                    server: server.to_owned(),
                    error,
                })?;
                self.search(ldap, server).await?
            }
        };
        bind(ldap, &dn, &self.password).await.map_err(|error| LdapFault::Bind {
            dn,
            server: server.to_owned(),
            error,
        })
    }

    /// The name of the only entry for the user.
    async fn search(&self, ldap: &mut Ldap, server: &str) -> Result<String, LdapFault> {
        let LdapLookup::Search { base, filter, scope, .. } = &self.options.lookup else {
            return Err(LdapFault::Abandoned);
        };
        let filter = filter.replace(USERNAME_PLACEHOLDER, &ldap3::ldap_escape(self.user.as_str()));
        let server = server.to_owned();
        let scope = match scope {
            LdapScope::Base => Scope::Base,
            LdapScope::OneLevel => Scope::OneLevel,
            LdapScope::Subtree => Scope::Subtree,
        };
        let mut names = match names_of(ldap, base, scope, &filter).await {
            Ok(names) => names,
            Err(error) => return Err(LdapFault::Search { filter, server, error }),
        };
        match (names.pop(), names.is_empty()) {
            // With an empty name, the password would not be verified.
            (Some(dn), true) if !dn.is_empty() => Ok(dn),
            (Some(_), false) => Err(LdapFault::SeveralEntries { filter, server }),
            _ => Err(LdapFault::NoEntry { filter, server }),
        }
    }
}

/// Simple bind.
async fn bind(ldap: &mut Ldap, dn: &str, password: &Secret) -> Result<(), LdapError> {
    let answer = ldap.with_timeout(REQUEST_TIMEOUT).simple_bind(dn, password.expose()).await?;
    answer.success().map(|_| ())
}

/// The names of the entries that match, at most [`MAX_ENTRIES`]. References to other servers are not followed.
async fn names_of(ldap: &mut Ldap, base: &str, scope: Scope, filter: &str) -> Result<Vec<String>, LdapError> {
    /// No attributes (RFC 4511, 4.5.1.8).
    const NO_ATTRIBUTES: &str = "1.1";
    let options = SearchOptions::new().sizelimit(MAX_ENTRIES as i32);
    let ldap = ldap.with_timeout(REQUEST_TIMEOUT).with_search_options(options);
    let mut found = ldap.streaming_search(base, scope, filter, vec![NO_ATTRIBUTES]).await?;
    let mut names = Vec::new();
    while let Some(entry) = found.next().await? {
        if !entry.is_ref() && !entry.is_intermediate() {
            names.push(SearchEntry::construct(entry).dn);
        }
        if names.len() >= MAX_ENTRIES {
            return Ok(names);
        }
    }
    found.finish().await.success()?;
    Ok(names)
}

/// A connection; closed when dropped.
struct LdapConnection {
    ldap: Ldap,
    driver: JoinHandle<()>,
}

impl Drop for LdapConnection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
