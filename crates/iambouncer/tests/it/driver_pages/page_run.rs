//! The programs of a page, run as the page says. Owns their directory, a pooler in front of a database of their own,
//! and the environment through which they find it, as in production.

use super::blocks::{Block, PageCommand, blocks, matches};
use crate::support::bouncer::{Start, end_with_the_test};
use crate::support::drivers::{link_node_packages, link_page_tools};
use crate::support::program::to_end_within;
use crate::support::sim::Sim;
use crate::support::{Bouncer, eventually, postgres};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// Time limit of a command: some compile, while other tests run.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(120);
/// The file for the errors of a running program.
const ERRORS: &str = "errors";
/// Applications have passwords, the tests' console connections none.
const HBA: &str = "host pgbouncer postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
/// `default_pool_size`.
pub(crate) const POOL_SIZE: usize = 4;
/// The defaults without a file that concern clients; two workers, so that clients and servers are spread over both.
const SETTINGS: [&str; 4] = [
    "workers = 2",
    "default_pool_size = 4",
    "ignore_startup_parameters = extra_float_digits",
    "auth_type = hba",
];

/// The directory of the pages.
pub(crate) fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

/// A page of `docs`.
pub(crate) fn page(name: &str) -> String {
    let path = docs().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A directory for a page's files, and the pooler that its programs use.
pub(crate) struct PageRun {
    pub(crate) bouncer: Bouncer,
    dir: tempfile::TempDir,
    environment: Vec<(String, String)>,
    /// The simulated RDS behind the pooler, if it is not a plain PostgreSQL.
    sim: Option<Sim>,
}

impl PageRun {
    /// A pooler in front of a new database with this name; clients call it `app`.
    pub(crate) fn start(database: &str) -> Self {
        Self::start_with(database, &[])
    }

    /// Like `start`, with more settings.
    pub(crate) fn start_with(database: &str, settings: &[&str]) -> Self {
        let line = format!("app = host=127.0.0.1 port={} dbname={database}", postgres().port());
        Self::run(database, Start::databases(&line), settings, None)
    }

    /// Like `start`, with a simulated RDS that accepts only tokens.
    pub(crate) fn start_with_iam(database: &str) -> Self {
        let sim = Sim::in_front_of(postgres());
        let line = sim.database().replace("dbname=app", &format!("dbname={database}"));
        let start = sim.start(&line);
        Self::run(database, start, &[], Some(sim))
    }

    fn run(database: &str, start: Start<'_>, settings: &[&str], sim: Option<Sim>) -> Self {
        postgres().sql(&format!("CREATE DATABASE {database} OWNER app")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let hba = dir.path().join("hba.conf");
        std::fs::write(&hba, HBA).unwrap();
        let start = start.set(&format!("auth_hba_file = {}", hba.display()));
        // A page about settings has them in this file, and reloads them.
        let included = dir.path().join("tls.ini");
        std::fs::write(&included, "").unwrap();
        let start = start.set(&format!("%include {}", included.display()));
        let settings = SETTINGS.iter().chain(settings);
        let bouncer = settings.fold(start, |start, setting| start.set(setting)).start();
        let mut environment = link_page_tools(dir.path());
        environment.extend(pooler_environment(&bouncer));
        Self { bouncer, dir, environment, sim }
    }

    /// Replaces the packages of Node by those in this directory of `tools/drivers`.
    pub(crate) fn with_packages(self, name: &str) -> Self {
        link_node_packages(self.dir(), name);
        self
    }

    /// Adds a variable to the programs' environment.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Where the page's files are.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The number of tokens that the simulated RDS has accepted.
    pub(crate) fn accepted_tokens(&self) -> usize {
        self.sim.as_ref().map_or(0, |sim| sim.signed_at().len())
    }

    /// Writes the page's files and runs its commands, in the order of the page.
    pub(crate) fn follow(&self, name: &str) {
        for block in blocks(&page(name)) {
            match block {
                Block::File { name, text } => self.write(&name, &text),
                Block::Commands(commands) => commands.iter().for_each(|command| self.check(name, command)),
            }
        }
    }

    /// Writes the page's files only.
    pub(crate) fn unpack(&self, name: &str) {
        for block in blocks(&page(name)) {
            if let Block::File { name, text } = block {
                self.write(&name, &text);
            }
        }
    }

    /// Replaces a part of a file, which must be there.
    pub(crate) fn change(&self, file: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.dir().join(file)).unwrap();
        assert!(text.contains(from), "{file} has no {from}:\n{text}");
        self.write(file, &text.replace(from, to));
    }

    /// The directory of the package is the page's.
    fn write(&self, name: &str, text: &str) {
        let text = text.replace("/etc/iambouncer", &self.dir().display().to_string());
        let path = self.dir().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn check(&self, page: &str, command: &PageCommand) {
        let output = self.output(&command.line);
        let expected = &command.output;
        assert!(
            matches(expected, &output),
            "{page}: {}\nthe page has\n{expected}\nbut the output is\n{output}",
            command.line
        );
    }

    /// What a command prints, errors included.
    pub(crate) fn output(&self, line: &str) -> String {
        to_end_within(&mut self.command(&format!("exec 2>&1\n{line}")), COMMAND_TIMEOUT).stdout
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("bash");
        let environment = self.environment.iter().map(|(name, value)| (name, value));
        command.args(["-c", line]).current_dir(self.dir()).env_clear().envs(environment);
        command.stdin(Stdio::null());
        end_with_the_test(&mut command);
        command
    }

    /// Starts a program that answers each line of its input with a line.
    pub(crate) fn program(&self, line: &str) -> PageProgram {
        let mut command = self.command(&format!("exec {line} 2>{ERRORS}"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        PageProgram { child, input, output, errors: self.dir().join(ERRORS) }
    }

    /// Replaces the pooler by another one at the same port, and waits until the old one has drained. Requires
    /// `so_reuseport` and `drain_max_seconds`.
    pub(crate) fn restart(&mut self) {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (self.bouncer.dir().display().to_string(), dir.path().display().to_string());
        std::fs::copy(self.bouncer.dir().join("users.txt"), dir.path().join("users.txt")).unwrap();
        let port = format!("listen_port = {}", self.bouncer.port);
        let ini = std::fs::read_to_string(self.bouncer.ini()).unwrap();
        std::fs::write(
            dir.path().join("pooler.ini"),
            ini.replace("listen_port = 0", &port).replace(&old, &new),
        )
        .unwrap();
        let arguments = [dir.path().join("pooler.ini").display().to_string()];
        let mut old = std::mem::replace(&mut self.bouncer, Bouncer::spawn(&arguments, &[], dir));
        old.signal(Signal::TERM);
        assert!(old.wait_for_end().success(), "{}", old.log());
    }

    /// Has the pooler close all clients between two transactions, as in a drain, and waits until it has.
    pub(crate) fn close_clients(&self) {
        let mut console = self.bouncer.console();
        let mut ids = || -> Vec<Option<String>> {
            let answer = console.query("SHOW CLIENTS");
            let headers = answer[0].headers();
            let at = |name: &str| headers.iter().position(|(header, _)| header == name).unwrap();
            let (database, id) = (at("database"), at("id"));
            let rows = answer.iter().filter(|message| message.tag == b'D').map(|message| message.row());
            rows.filter(|row| row[database].as_deref() == Some("app")).map(|row| row[id].clone()).collect()
        };
        let before = ids();
        self.bouncer.console().query("RECONNECT_CLIENTS app 0");
        // A pool may connect again at once.
        eventually("the clients are closed", || !ids().iter().any(|id| before.contains(id)));
    }

    /// Waits until the pooler has no client but the console's.
    pub(crate) fn wait_for_no_clients(&self) {
        let mut console = self.bouncer.console();
        eventually("the clients are closed", || {
            !console.column("SHOW CLIENTS", "database").contains(&"app".to_owned())
        });
    }
}

/// The variables that drivers and pages read.
fn pooler_environment(bouncer: &Bouncer) -> Vec<(String, String)> {
    let port = bouncer.port.to_string();
    let variables = [
        ("PGHOST", "127.0.0.1"),
        ("PGPORT", &port),
        ("PGUSER", "app"),
        ("PGPASSWORD", "secret"),
        ("PGDATABASE", "app"),
        ("DATABASE_URL", &format!("postgresql://app:secret@127.0.0.1:{port}/app")),
    ];
    variables.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

/// A running program of a page.
pub(crate) struct PageProgram {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    errors: PathBuf,
}

impl PageProgram {
    /// Sends a line and returns the answer.
    pub(crate) fn answer(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").unwrap();
        let answer = self.output.next().map(Result::unwrap);
        answer.unwrap_or_else(|| panic!("the program has ended: {}", self.errors()))
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn errors(&self) -> String {
        std::fs::read_to_string(&self.errors).unwrap()
    }

    /// Sends a line to a program that fails, and returns the errors that it has printed.
    pub(crate) fn failure(&mut self, line: &str) -> String {
        // It may have ended before.
        let _ = writeln!(self.input, "{line}");
        let lines: Vec<String> = self.output.by_ref().map(Result::unwrap).collect();
        assert_ne!(self.child.wait().unwrap().code(), Some(0), "{lines:?}");
        self.errors()
    }
}

impl Drop for PageProgram {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
