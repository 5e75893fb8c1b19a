//! `pam`: the client's password is verified by the host's PAM service `pgbouncer`. Owns the limits; the calls, which
//! block, are in `pam_library` and run on threads of the control runtime. Builds without the feature `pam` refuse such
//! clients; their configuration check refuses the method first.

use super::authenticate::{Login, LoginRefusal};
use crate::client_error;
use crate::config::Secret;
use crate::context::Context;
use std::net::IpAddr;
use std::rc::Rc;

/// Requests the client's password and has PAM verify it. Returns the password, with which the pool can log in to
/// servers.
#[cfg(feature = "pam")]
pub(super) async fn prove(
    context: &Rc<Context>,
    login: &mut Login<'_>,
    remote: Option<IpAddr>,
) -> Result<Secret, LoginRefusal> {
    use super::pam_library::PamLogin;
    use crate::log_limit::warn_unauthenticated;

    let password = Secret::new(login.ask_cleartext().await?.as_str());
    let user = login.user;
    let request = PamLogin {
        user: user.to_owned(),
        password: password.clone(),
        // As PgBouncer names clients on a UNIX socket.
        remote: remote.map_or_else(|| "unix".to_owned(), |address| address.to_canonical().to_string()),
    };
    let permit = context.process.pam_logins.clone().acquire_owned().await;
    let permit = permit.map_err(|_| LoginRefusal::Error(client_error::shutting_down()))?;
    let verifying = move || {
        // PAM cannot be interrupted: also if the client disconnects, the place is taken until PAM has answered.
        let _permit = permit;
        request.verify(None)
    };
    match context.blocking(verifying).await {
        Some(Ok(())) => return Ok(password),
        Some(Err(fault)) => warn_unauthenticated!(context, "pam", user, "{fault}"),
        None => warn_unauthenticated!(context, "pam", user, "the call of PAM was aborted"),
    }
    Err(LoginRefusal::Error(client_error::pam_refused()))
}

/// Without the library, every client is refused.
#[cfg(not(feature = "pam"))]
pub(super) async fn prove(
    _: &Rc<Context>,
    _: &mut Login<'_>,
    _: Option<IpAddr>,
) -> Result<Secret, LoginRefusal> {
    Err(LoginRefusal::Error(client_error::pam_refused()))
}
