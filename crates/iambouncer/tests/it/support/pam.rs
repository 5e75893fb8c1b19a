//! A PostgreSQL that calls the simulator's verifier through PAM, as RDS calls its agent. Owns one file in
//! /etc/pam.d, which requires root to write; it is removed with the value.

use super::postgres;
use rds_sim::postgres::{Postgres, PostgresOptions};
use rds_sim::{AccessKey, Certificates, PamEndpoint, Simulator, TokenTarget, hba_lines, pam_service};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tokio::runtime::Runtime;

/// The port that tokens are signed for: PostgreSQL's own is not known before it starts.
pub const TOKEN_PORT: u16 = 5432;

/// A PostgreSQL with RDS's lines in `pg_hba.conf`. Role `app` is in `rds_iam`, role `plain` is not.
pub struct PamPostgres {
    pub server: Postgres,
    pub simulator: Simulator,
    _endpoint: PamEndpoint,
    _service: Service,
    dir: tempfile::TempDir,
    _runtime: Runtime,
}

/// A file in /etc/pam.d, removed when this is dropped.
struct Service {
    path: PathBuf,
    name: String,
}

impl Service {
    fn install(module: &Path, port: u16) -> Option<Self> {
        let name = format!("iambouncer-test-{}", std::process::id());
        let path = Path::new("/etc/pam.d").join(&name);
        std::fs::write(&path, pam_service(module, port)).ok()?;
        Some(Self { path, name })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _removed = std::fs::remove_file(&self.path);
    }
}

impl PamPostgres {
    /// `None` if /etc/pam.d cannot be written.
    pub fn start(host: &str, region: &str, key: AccessKey) -> Option<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let simulator = Simulator::default();
        simulator.keys().add(key);
        let target =
            TokenTarget { hosts: vec![host.to_owned()], port: TOKEN_PORT, region: region.to_owned() };
        let listen = "127.0.0.1:0".parse().unwrap();
        let endpoint = runtime.block_on(PamEndpoint::start(&simulator, listen, target)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let service = Service::install(&module(dir.path()), endpoint.address().port())?;
        let certificates = Certificates::generate(&[host.to_owned()]).unwrap();
        std::fs::write(dir.path().join("ca.pem"), certificates.ca_pem()).unwrap();
        let server = postgres::start(PostgresOptions {
            hba: Some(hba_lines(&service.name)),
            tls: Some(certificates.for_postgres()),
            ..PostgresOptions::default()
        });
        let roles = "create role rds_iam; create role app login in role rds_iam; \
                     create role stranger login in role rds_iam; create role plain login password 'pw'";
        server.sql(roles).unwrap();
        Some(Self { server, simulator, _endpoint: endpoint, _service: service, dir, _runtime: runtime })
    }

    /// The file with the CA of its certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }
}

/// Builds the module in the target directory of this test, and copies it to where PostgreSQL's account can
/// read it.
fn module(dir: &Path) -> PathBuf {
    let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "-p", "rds-sim-pam"])
        .env("CARGO_TARGET_DIR", &target)
        .status()
        .unwrap();
    assert!(status.success());
    let copy = dir.join("librds_sim_pam.so");
    std::fs::copy(target.join("debug/librds_sim_pam.so"), &copy).unwrap();
    for path in [dir, &copy] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    copy
}
