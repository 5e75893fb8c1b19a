//! `cert` and `peer`: the client's name is proven by its certificate, or by the kernel. Owns the comparison of that
//! name with the requested user, directly or by a map. Whatever the reason, a refused client receives the same
//! message; the log has the reason.

use super::authenticate::{ClientClaim, Login, LoginRefusal};
use super::stored::StoredCredentials;
use crate::accounts;
use crate::client_error;
use crate::context::Context;
use crate::log_limit::warn_unauthenticated;
use crate::server::target::LearnedCredential;
use std::rc::Rc;

/// Checks the name in the client's certificate.
pub(super) async fn by_certificate(
    context: &Rc<Context>,
    login: &Login<'_>,
    claim: &ClientClaim<'_>,
    map: Option<&str>,
) -> Result<Option<LearnedCredential>, LoginRefusal> {
    let &ClientClaim { user, database, .. } = claim;
    let refused = |reason: &str| {
        warn_unauthenticated!(context, "cert", user, database, "{reason}");
        Err(LoginRefusal::Error(client_error::certificate_refused()))
    };
    let Some(tls) = login.stream.tls() else { return refused("TLS connection required") };
    if tls.peer_certificate().is_none() {
        return refused("TLS client certificate required");
    }
    let name = tls.peer_common_name();
    match (map, name) {
        (None, Some(name)) if name == user => {}
        (None, _) => return refused("TLS certificate name mismatch"),
        (Some(map), Some(name)) if context.loaded().ident.allows(map, &name, user) => {}
        (Some(map), _) => return refused(&format!("ident map: {map} does not have a match")),
    }
    match Box::pin(StoredCredentials::known(context, claim)).await.map_err(LoginRefusal::Error)? {
        Some(known) => Ok(known.learned),
        None => refused("no such user"),
    }
}

/// Checks the account of the process at the other end of a UNIX socket.
pub(super) async fn by_socket(
    context: &Rc<Context>,
    login: &Login<'_>,
    claim: &ClientClaim<'_>,
    map: Option<&str>,
) -> Result<Option<LearnedCredential>, LoginRefusal> {
    let &ClientClaim { user, database, .. } = claim;
    let refused = |reason: &str| {
        warn_unauthenticated!(context, "peer", user, database, "{reason}");
        Err(LoginRefusal::Error(client_error::peer_refused()))
    };
    let Some(uid) = login.stream.unix_peer() else { return refused("the account of the client is unknown") };
    let name = context.blocking(move || accounts::user_name(uid.as_raw())).await.flatten();
    match (map, name) {
        (None, Some(name)) if name == user => {}
        (None, _) => return refused("the account of the client does not have the name of the user"),
        (Some(map), Some(name)) if context.loaded().ident.allows(map, &name, user) => {}
        (Some(map), _) => return refused(&format!("ident map {map} cannot be matched")),
    }
    match Box::pin(StoredCredentials::known(context, claim)).await.map_err(LoginRefusal::Error)? {
        Some(known) => Ok(known.learned),
        None => refused("no such user"),
    }
}
