//! `cert` and `peer`: the client's name is proven by its certificate, or by the kernel. Owns the comparison of that
//! name with the requested user, directly or by a map. Whatever the reason, a refused client receives the same
//! message; the log has the reason.

use super::authenticate::{ClientClaim, Login, LoginRefusal};
use super::stored::{KnownUser, StoredCredentials};
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
        LoginRefusal::Error(client_error::certificate_refused())
    };
    let tls = login.stream.tls().ok_or_else(|| refused("TLS connection required"))?;
    if tls.peer_certificate().is_none() {
        return Err(refused("TLS client certificate required"));
    }
    if !may_log_in_as(context, map, tls.peer_common_name().as_deref(), user) {
        return Err(match map {
            None => refused("TLS certificate name mismatch"),
            Some(map) => refused(&format!("ident map: {map} does not have a match")),
        });
    }
    known_user(context, claim).await?.ok_or_else(|| refused("no such user")).map(|known| known.learned)
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
        LoginRefusal::Error(client_error::peer_refused())
    };
    let peer = login.stream.unix_peer();
    let uid = peer.ok_or_else(|| refused("the account of the client is unknown"))?.uid;
    let name = context.blocking(move || accounts::user_name(uid.as_raw())).await.flatten();
    if !may_log_in_as(context, map, name.as_deref(), user) {
        return Err(match map {
            None => refused("the account of the client does not have the name of the user"),
            Some(map) => refused(&format!("ident map {map} cannot be matched")),
        });
    }
    known_user(context, claim).await?.ok_or_else(|| refused("no such user")).map(|known| known.learned)
}

/// True if the client with this proven name may log in as `user`: it has the same name, or the map allows it.
fn may_log_in_as(context: &Context, map: Option<&str>, name: Option<&str>, user: &str) -> bool {
    name.is_some_and(|name| match map {
        None => name == user,
        Some(map) => context.loaded().ident.allows(map, name, user),
    })
}

async fn known_user(
    context: &Rc<Context>,
    claim: &ClientClaim<'_>,
) -> Result<Option<KnownUser>, LoginRefusal> {
    Box::pin(StoredCredentials::known(context, claim)).await.map_err(LoginRefusal::Error)
}
