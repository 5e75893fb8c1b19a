//! One running instance of a contender. Owns its start, the wait until it serves, and its end; what it is told
//! comes from `formats`. Without anything in between, the instance is PostgreSQL's port and no process.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::bed::{self, Bed, DATABASE, USER};
use crate::client::{self, BenchTarget, Client};
use crate::cpu::CpuTime;
use crate::entrants::Entrant;
use crate::formats::{self, Ini, Site};
use crate::process::{self, ChildProcess};

/// How long a pooler may take until a login through it succeeds.
const READY_LIMIT: Duration = Duration::from_secs(10);
/// Pause between two attempts.
const READY_POLL: Duration = Duration::from_millis(20);
/// How often another port is tried when somebody else took ours.
const START_ATTEMPTS: u32 = 3;

/// One running instance.
pub(crate) struct Pooler {
    process: Option<ChildProcess>,
    /// Port on 127.0.0.1.
    pub(crate) port: u16,
}

impl Pooler {
    /// Starts `entrant` and waits until a query through it succeeds.
    pub(crate) fn start(bed: &Bed, entrant: &Entrant, ini: Ini) -> Result<Self> {
        Self::start_under(bed, entrant, ini, &[])
    }

    /// The same, with the program `tool` and its arguments in front of the pooler's own command.
    pub(crate) fn start_under(bed: &Bed, entrant: &Entrant, ini: Ini, tool: &[String]) -> Result<Self> {
        let Some(program) = &entrant.program else {
            return Ok(Self { process: None, port: bed.postgres_port() });
        };
        let (mut attempt, began) = (1, Instant::now());
        loop {
            match Self::try_start(bed, entrant, program, ini, tool) {
                // One that has not come up in time will not do so on another port either.
                Err(_) if attempt < START_ATTEMPTS && began.elapsed() < READY_LIMIT => attempt += 1,
                outcome => return outcome.with_context(|| format!("starting {}", entrant.contender.name())),
            }
        }
    }

    /// Process id, where there is a process.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(ChildProcess::pid)
    }

    /// CPU time used so far, where there is a process.
    pub(crate) fn cpu_time(&self) -> Result<Option<CpuTime>> {
        self.pid().map(CpuTime::read).transpose()
    }

    /// Lets it end in order, which it must not take longer than `limit`.
    pub(crate) fn end(self, limit: Duration) -> Result<()> {
        if let Some(process) = self.process {
            process.end(Signal::QUIT, limit)?;
        }
        Ok(())
    }

    fn try_start(bed: &Bed, entrant: &Entrant, program: &Path, ini: Ini, tool: &[String]) -> Result<Self> {
        let (name, port) = (entrant.contender.name(), bed::free_port()?);
        let site = Site { dir: bed.dir(), postgres_port: bed.postgres_port(), listen_port: port };
        let Some(config) = formats::config(entrant.contender, &ini, &site) else {
            bail!("{name} has no configuration");
        };
        for (file, text) in config.files {
            fs::write(bed.dir().join(&file), text).with_context(|| format!("writing {file}"))?;
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
        let log = bed.dir().join(format!("{}.log", entrant.contender.file()));
        let process = ChildProcess::start(command, name, log, bed.account())?;
        wait(bed, process, port, ini)
    }
}

/// Waits until `process` serves on `port`.
fn wait(bed: &Bed, mut process: ChildProcess, port: u16, ini: Ini) -> Result<Pooler> {
    let tls = ini.client_tls.then(|| client::tls_connector(&bed.certs.ca_pem)).transpose()?;
    let target = BenchTarget { port, user: USER, database: DATABASE, tls: tls.as_ref() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let deadline = Instant::now() + READY_LIMIT;
    loop {
        let attempt = runtime.block_on(async {
            tokio::time::timeout(READY_LIMIT, async { Client::login(&target).await?.query("SELECT 1").await })
                .await?
        });
        match attempt {
            Ok(_) => return Ok(Pooler { process: Some(process), port }),
            Err(_) if process.is_running() && Instant::now() < deadline => std::thread::sleep(READY_POLL),
            Err(error) => return Err(error).with_context(|| process.last_words()),
        }
    }
}
