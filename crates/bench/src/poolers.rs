//! One running instance of a contender. Owns its start, waiting until it is ready, and its shutdown;
//! `formats` provides its configuration. For `Direct`, the instance is PostgreSQL's port without a process.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::client::{self, BenchTarget, Client};
use crate::cpu::CpuTime;
use crate::entrants::Entrant;
use crate::formats::{self, Ini, Site};
use crate::process::{self, ChildProcess};
use crate::scram_session::ScramSession;
use crate::test_bed::{self, DATABASE, TestBed, USER};

/// Time limit until a login through a pooler succeeds.
const READY_LIMIT: Duration = Duration::from_secs(10);
/// Interval between attempts.
const READY_POLL: Duration = Duration::from_millis(20);
/// Maximum number of attempts, in case another process has taken the port.
const START_ATTEMPTS: u32 = 3;

/// One running instance.
pub(crate) struct Pooler {
    process: Option<ChildProcess>,
    /// Port on 127.0.0.1.
    pub(crate) port: u16,
}

impl Pooler {
    /// Starts `entrant` and waits until a query through it succeeds.
    pub(crate) fn start(test_bed: &TestBed, entrant: &Entrant, ini: Ini) -> Result<Self> {
        Self::start_under(test_bed, entrant, ini, &[])
    }

    /// Like [`start`](Self::start), with the pooler run by the program `tool` and its arguments.
    pub(crate) fn start_under(
        test_bed: &TestBed,
        entrant: &Entrant,
        ini: Ini,
        tool: &[String],
    ) -> Result<Self> {
        let Some(program) = &entrant.program else {
            return Ok(Self { process: None, port: test_bed.postgres_port() });
        };
        let (mut attempt, began) = (1, Instant::now());
        loop {
            match Self::try_start(test_bed, entrant, program, ini, tool) {
                // After a timeout, another port would not help.
                Err(_) if attempt < START_ATTEMPTS && began.elapsed() < READY_LIMIT => attempt += 1,
                outcome => return outcome.with_context(|| format!("starting {}", entrant.contender.name())),
            }
        }
    }

    /// Process ID, if there is a process.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(ChildProcess::pid)
    }

    /// CPU time used so far, if there is a process.
    pub(crate) fn cpu_time(&self) -> Result<Option<CpuTime>> {
        self.pid().map(CpuTime::read).transpose()
    }

    /// Shuts it down gracefully, within `limit`.
    pub(crate) fn end(self, limit: Duration) -> Result<()> {
        if let Some(process) = self.process {
            process.end(Signal::QUIT, limit)?;
        }
        Ok(())
    }

    fn try_start(
        test_bed: &TestBed,
        entrant: &Entrant,
        program: &Path,
        ini: Ini,
        tool: &[String],
    ) -> Result<Self> {
        let (name, port) = (entrant.contender.name(), test_bed::free_port()?);
        let site = Site { dir: test_bed.dir(), postgres_port: test_bed.postgres_port(), listen_port: port };
        let Some(config) = formats::config(entrant.contender, &ini, &site) else {
            bail!("{name} does not have a configuration");
        };
        for (file, text) in config.files {
            fs::write(test_bed.dir().join(&file), text).with_context(|| format!("writing {file}"))?;
        }
        let mut command = match tool {
            [] => process::command(program),
            [tool, args @ ..] => {
                let mut command = process::command(Path::new(tool));
                command.args(args).arg(program);
                command
            }
        };
        command.args(config.args);
        let log = test_bed.dir().join(format!("{}.log", entrant.contender.file()));
        let process = ChildProcess::start(command, name, log, test_bed.account())?;
        wait(test_bed, process, port, ini)
    }
}

/// Waits until `process` accepts logins on `port`.
fn wait(test_bed: &TestBed, mut process: ChildProcess, port: u16, ini: Ini) -> Result<Pooler> {
    let tls = ini.client_tls.then(|| client::tls_connector(&test_bed.certs.ca_pem)).transpose()?;
    let target = BenchTarget { port, user: USER, database: DATABASE, tls: tls.as_ref() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let deadline = Instant::now() + READY_LIMIT;
    loop {
        let attempt = runtime.block_on(async {
            let attempt = async {
                if ini.scram {
                    let (mut session, _) = ScramSession::login(port, None, &test_bed.scram).await?;
                    return session.query("SELECT 1").await;
                }
                Client::login(&target).await?.query("SELECT 1").await.map(drop)
            };
            tokio::time::timeout(READY_LIMIT, attempt).await?
        });
        match attempt {
            Ok(()) => return Ok(Pooler { process: Some(process), port }),
            Err(_) if process.is_running() && Instant::now() < deadline => std::thread::sleep(READY_POLL),
            Err(error) => return Err(error).with_context(|| process.output_tail()),
        }
    }
}
