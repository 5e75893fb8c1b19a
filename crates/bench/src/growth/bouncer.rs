//! One running pooler of the page. Owns its files, its start and its end: dropping it kills it. It never measures.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::config::GrowthIni;
use super::plain_client::PlainClient;
use crate::contenders::Contender;
use crate::cpu::{self, CpuTime};
use crate::entrants::Entrant;
use crate::formats::Site;
use crate::process::{self, ChildProcess};
use crate::test_bed::{self, DATABASE, TestBed, USER};

/// Time limit until a login succeeds; large files are read before.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// Interval between attempts.
const READY_POLL: Duration = Duration::from_millis(20);
/// Maximum number of attempts, in case another process has taken a port.
const START_ATTEMPTS: u32 = 3;
/// The database of the console.
const CONSOLE: &str = "pgbouncer";

/// A running pooler.
pub(super) struct GrowthBouncer {
    process: ChildProcess,
    /// Its name on the page.
    pub(super) name: &'static str,
    /// Port of clients on 127.0.0.1.
    pub(super) port: u16,
    /// Port of metrics, if it has one.
    pub(super) http_port: Option<u16>,
}

impl GrowthBouncer {
    /// Starts `entrant` and waits until a query through it succeeds.
    pub(super) fn start(test_bed: &TestBed, entrant: &Entrant, ini: GrowthIni) -> Result<Self> {
        let name = entrant.contender.name();
        let mut attempt = 1;
        loop {
            match Self::try_start(test_bed, entrant, ini) {
                Err(_) if attempt < START_ATTEMPTS => attempt += 1,
                outcome => return outcome.with_context(|| format!("starting {name}")),
            }
        }
    }

    fn try_start(test_bed: &TestBed, entrant: &Entrant, ini: GrowthIni) -> Result<Self> {
        let name = entrant.contender.name();
        let program = entrant.program.as_ref().with_context(|| format!("{name} has no program"))?;
        let port = test_bed::free_port()?;
        let http_port = if is_iambouncer(entrant) { Some(test_bed::free_port()?) } else { None };
        let dir = test_bed.dir();
        let site = Site { dir, postgres_port: test_bed.postgres_port(), listen_port: port };
        // RELOAD reads these files again, so each pooler has its own.
        let file = |ending: &str| format!("growth-{port}.{ending}");
        let users = file("users");
        fs::write(dir.join(&users), ini.users_text()).with_context(|| format!("writing {users}"))?;
        let config = dir.join(file("ini"));
        let text = ini.text(&site, &users, http_port);
        fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
        let mut command = process::command(program);
        command.arg(&config);
        let process = ChildProcess::start(command, name, dir.join(file("log")), test_bed.account())?;
        Self { process, name, port, http_port }.ready()
    }

    /// Waits until it serves a query.
    fn ready(mut self) -> Result<Self> {
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            let attempt = self.client().and_then(|mut client| client.query("SELECT 1"));
            match attempt {
                Ok(_) => return Ok(self),
                Err(error) if !self.process.is_running() || Instant::now() > deadline => {
                    return Err(error).with_context(|| self.process.output_tail());
                }
                Err(_) => std::thread::sleep(READY_POLL),
            }
        }
    }

    /// A new client of the first database.
    pub(super) fn client(&self) -> Result<PlainClient> {
        PlainClient::login(self.port, USER, DATABASE)
    }

    /// A new client of the console.
    pub(super) fn console(&self) -> Result<PlainClient> {
        PlainClient::login(self.port, USER, CONSOLE)
    }

    /// Waits until all servers are closed.
    pub(super) fn wait_without_servers(&self, limit: Duration) -> Result<()> {
        let mut console = self.console()?;
        let deadline = Instant::now() + limit;
        while console.query("SHOW SERVERS")? > 0 {
            if Instant::now() > deadline {
                bail!("{} has not closed its servers within {} s", self.name, limit.as_secs());
            }
            std::thread::sleep(READY_POLL);
        }
        Ok(())
    }

    /// CPU time used so far.
    pub(super) fn cpu_time(&self) -> Result<CpuTime> {
        CpuTime::read(self.process.pid()).with_context(|| self.process.output_tail())
    }

    /// Its memory, in KiB.
    pub(super) fn pss_kib(&self) -> Result<u64> {
        cpu::anonymous_kib(self.process.pid())
    }
}

/// True for the program that has its own settings.
pub(super) fn is_iambouncer(entrant: &Entrant) -> bool {
    entrant.contender == Contender::Iambouncer
}
