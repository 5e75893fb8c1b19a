//! Support for a real PostgreSQL that calls this endpoint through PAM, as RDS calls its agent.
//!
//! Owns: the endpoint that the PAM module posts to, and the texts that configure PostgreSQL and PAM for it.
//! Never: installs anything; that requires root and is up to the user.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use crate::http::{HttpRequest, HttpServer, Reply};
use crate::simulator::Simulator;
use crate::verify::TokenTarget;

/// The port that the PAM module posts to by default.
pub const DEFAULT_PAM_PORT: u16 = 1108;

/// The endpoint of the PAM module; dropping it closes it.
#[derive(Debug)]
pub struct PamEndpoint {
    server: HttpServer,
}

impl PamEndpoint {
    /// Serves `POST /authenticateRequest`: 200 for a valid token, 403 for an invalid one.
    pub async fn start(simulator: &Simulator, listen: SocketAddr, target: TokenTarget) -> io::Result<Self> {
        let simulator = simulator.clone();
        let handler = move |request: &HttpRequest| authenticate(&simulator, &target, request);
        Ok(Self { server: HttpServer::start(listen, Arc::new(handler)).await? })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }
}

/// The body is the user, a NUL (which neither can contain) and the token.
fn authenticate(simulator: &Simulator, target: &TokenTarget, request: &HttpRequest) -> Reply {
    if request.method != "POST" || request.path != "/authenticateRequest" {
        return Reply::text(404, "not found");
    }
    let Ok(body) = std::str::from_utf8(&request.body) else {
        return Reply::text(400, "not UTF-8");
    };
    let Some((user, token)) = body.split_once('\0') else {
        return Reply::text(400, "no user");
    };
    match simulator.check_login(token, user, "", target) {
        Ok(_accepted) => Reply::text(200, "ok"),
        Err(_refusal) => Reply::text(403, "Forbidden"),
    }
}

/// The `pg_hba.conf` of such a server, in RDS's order of lines. All users except members of `rds_iam` use
/// passwords; the superuser logs in over the Unix socket.
pub fn hba_lines(pam_service_name: &str) -> String {
    format!(
        "local all all trust\n\
         hostssl all +rds_iam all pam pamservice={pam_service_name}\n\
         hostnossl all +rds_iam all reject\n\
         host all all all scram-sha-256\n"
    )
}

/// The text of `/etc/pam.d/<service>` for a module at `module` that posts to `port`.
pub fn pam_service(module: &Path, port: u16) -> String {
    let module = module.display();
    // PostgreSQL also performs the account check, which does not depend on the token.
    format!("auth required {module} port={port}\naccount required pam_permit.so\n")
}
