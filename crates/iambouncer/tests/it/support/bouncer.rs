//! The real binary, started with the test's configuration. Owns the process, its directory and its log.

use super::raw::Client;
use super::{TIMEOUT, eventually};
use rustix::process::{Pid, Signal};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};

/// A running iambouncer.
pub struct Bouncer {
    child: Child,
    /// The port it listens on.
    pub port: u16,
    log: Arc<Mutex<String>>,
    dir: tempfile::TempDir,
}

/// Builder of a [`Bouncer`].
pub struct Start<'a> {
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    databases: &'a str,
    settings: String,
    users: String,
    wrapper: Vec<String>,
    /// Settings that this harness would set.
    without: Vec<&'static str>,
}

impl<'a> Start<'a> {
    /// `databases` are the lines of `[databases]`.
    pub fn databases(databases: &'a str) -> Self {
        Self {
            arguments: Vec::new(),
            environment: Vec::new(),
            databases,
            settings: String::new(),
            wrapper: Vec::new(),
            without: Vec::new(),
            users: "\"app\" \"secret\"\n\"other\" \"other\"\n\"postgres\" \"\"\n".to_owned(),
        }
    }

    /// Adds a line of `[pgbouncer]`.
    pub fn set(mut self, line: &str) -> Self {
        self.settings.push_str(line);
        self.settings.push('\n');
        self
    }

    /// Leaves out a setting that tests usually have.
    pub fn without(mut self, key: &'static str) -> Self {
        self.without.push(key);
        self
    }

    /// Replaces the contents of `auth_file`.
    pub fn users(mut self, users: &str) -> Self {
        self.users = users.to_owned();
        self
    }

    /// Adds an environment variable.
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.environment.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Runs the binary through this program with its arguments.
    pub fn through(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Starts the binary and waits until it is ready.
    pub fn start(self) -> Bouncer {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("users.txt"), &self.users).unwrap();
        std::fs::write(dir.path().join("pooler.ini"), self.ini(dir.path())).unwrap();
        let mut arguments = vec![dir.path().join("pooler.ini").display().to_string()];
        arguments.extend(self.arguments.clone());
        Bouncer::spawn_through(&self.wrapper, &arguments, &self.environment, dir)
    }

    fn ini(&self, dir: &Path) -> String {
        let mut text = format!("[databases]\n{}\n[pgbouncer]\n", self.databases);
        // One worker, since many tests count servers or rely on their order; tests of several workers set the
        // number. TEST_WORKERS changes the default.
        let workers = std::env::var("TEST_WORKERS").unwrap_or_else(|_| "1".to_owned());
        let defaults = [
            ("workers", workers.as_str()),
            ("listen_addr", "127.0.0.1"),
            ("listen_port", "0"),
            ("http_port", "0"),
            ("unix_socket_dir", ""),
            ("auth_type", "trust"),
            ("pool_mode", "transaction"),
            ("admin_users", "postgres"),
            ("server_login_retry", "1"),
        ];
        for (key, value) in defaults {
            let given = self.settings.lines().any(|line| line.split('=').next().map(str::trim) == Some(key));
            if !given && !self.without.contains(&key) {
                text.push_str(&format!("{key} = {value}\n"));
            }
        }
        text.push_str(&format!("auth_file = {}\n{}", dir.join("users.txt").display(), self.settings));
        text
    }
}

impl Bouncer {
    /// A pooler in front of the server's database `app`.
    pub fn in_front_of(server: &rds_sim::postgres::Postgres, settings: &[&str]) -> Self {
        let databases = format!("app = host=127.0.0.1 port={} dbname=app", server.port());
        settings.iter().fold(Start::databases(&databases), |start, line| start.set(line)).start()
    }

    /// Starts the binary with these arguments; its environment contains only `environment`.
    pub fn spawn(arguments: &[String], environment: &[(String, String)], dir: tempfile::TempDir) -> Self {
        Self::spawn_through(&[], arguments, environment, dir)
    }

    fn spawn_through(
        wrapper: &[String],
        arguments: &[String],
        environment: &[(String, String)],
        dir: tempfile::TempDir,
    ) -> Self {
        Self::run(command_through(wrapper, arguments, environment), dir)
    }

    /// Starts another build of the pooler with this command, and waits until it is ready.
    pub fn run(mut command: Command, dir: tempfile::TempDir) -> Self {
        let mut child = command.current_dir(dir.path()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (ready, is_ready) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let sink = log.clone();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                // Store the line before signaling: the test may search the log for it.
                let mut log = sink.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
                drop(log);
                if let Some((_, rest)) = line.split_once("ready: accepting connections on ") {
                    let port =
                        rest.split(',').find_map(|end| end.trim().rsplit_once(':')?.1.parse::<u16>().ok());
                    let _ = ready.send(port.unwrap_or(0));
                }
            }
        });
        let Ok(port) = is_ready.recv_timeout(TIMEOUT) else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("iambouncer did not become ready:\n{}", log.lock().unwrap());
        };
        Self { child, port, log, dir }
    }

    /// The port of probes and metrics; requires `http_port = auto`.
    pub fn http_port(&self) -> u16 {
        let log = self.log();
        let (_, rest) = log.split_once("probes and metrics on http://127.0.0.1:").expect("HTTP is on");
        rest.split_whitespace().next().and_then(|port| port.parse().ok()).expect("a port")
    }

    /// A logged-in client of database `app`.
    pub fn client(&self) -> Client {
        Client::log_in(self.port, "app", "app")
    }

    /// SQLSTATE, message and hint of a refused login. A client may time out with query_wait_timeout before
    /// the first server login has failed; then another client is tried.
    pub fn refused_login(&self, user: &str, database: &str) -> (String, String, String) {
        let mut refusal = None;
        eventually("a client that receives the reason", || {
            let mut client = Client::start(self.port, &[("user", user), ("database", database)]);
            // After query_wait_notify, AuthenticationOk and a NOTICE precede the error.
            let mut message = client.read().expect("an answer");
            while matches!(message.tag, b'R' | b'N') {
                message = client.read().expect("an answer");
            }
            let (code, text) = message.error();
            let has_reason = text != "query_wait_timeout";
            refusal = Some((code, text, message.hint()));
            has_reason
        });
        refusal.expect("an answer")
    }

    /// Expects that a client of database `app` is refused with this cause and a text that contains `parts`,
    /// and that the log and the metrics report the same cause. Requires `http_port = auto`.
    #[track_caller]
    pub fn expect_cause(&self, code: &str, id: &str, reason: &str, parts: &[&str]) {
        let (given, text, hint) = self.refused_login("app", "app");
        assert_eq!(given, code, "{text} / {hint}");
        assert!(hint.ends_with(&format!("[{id}]")), "{text} / {hint}");
        for part in parts {
            assert!(text.contains(part) || hint.contains(part), "{part}: {text} / {hint}");
        }
        let line = self.wait_for_line("cause=");
        assert!(line.contains(&format!("cause=\"{id}\" reason=\"{reason}\"")), "{line}");
        let failures = "iambouncer_server_login_failures_total";
        let scrape = super::http::scrape(self.http_port());
        let of_this = scrape.sum(failures, &[("reason", reason)]);
        assert!(of_this >= Some(1.0) && scrape.sum(failures, &[]) == of_this, "{reason}: {of_this:?}");
    }

    /// Opens a console connection.
    pub fn console(&self) -> Client {
        Client::log_in(self.port, "postgres", "pgbouncer")
    }

    /// A column of a SHOW command, for all rows.
    pub fn show(&self, what: &str, column: &str) -> Vec<String> {
        self.console().column(&format!("SHOW {what}"), column)
    }

    /// Waits until SHOW SERVERS lists exactly `n` servers.
    pub fn wait_for_servers(&self, n: usize) {
        let mut console = self.console();
        eventually(&format!("{n} servers"), || console.column("SHOW SERVERS", "state").len() == n);
    }

    /// The process ID.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    /// Waits until the process exits.
    pub fn wait_for_end(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("iambouncer ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Everything logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits for a log line that contains `part`. The log is read through a pipe, so a client may receive its
    /// answer before an earlier line was read.
    pub fn wait_for_line(&self, part: &str) -> String {
        let find = |log: &str| log.lines().find(|line| line.contains(part)).map(str::to_owned);
        let mut found = None;
        eventually(&format!("a log line with {part}"), || {
            found = find(&self.log());
            found.is_some()
        });
        found.unwrap()
    }

    /// The working directory with its files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The configuration file.
    pub fn ini(&self) -> PathBuf {
        self.dir.path().join("pooler.ini")
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("log of iambouncer:\n{}", self.log());
        }
    }
}

/// The binary with a clean environment; it is killed when the test process exits.
pub fn command(arguments: &[String], environment: &[(String, String)]) -> Command {
    command_through(&[], arguments, environment)
}

/// As [`command`], through a program with its arguments.
pub fn command_through(
    wrapper: &[String],
    arguments: &[String],
    environment: &[(String, String)],
) -> Command {
    let binary = env!("CARGO_BIN_EXE_iambouncer").to_owned();
    let words: Vec<&String> = wrapper.iter().chain([&binary]).collect();
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .args(arguments)
        .env_clear()
        .env("AWS_EC2_METADATA_DISABLED", "true")
        // `make test` runs all tests once more with another engine.
        .envs(std::env::var("TEST_IO_ENGINE").map(|engine| ("IAMBOUNCER_IO_ENGINE", engine)))
        // It also runs some with clients that change their worker after every request.
        .envs(std::env::var("TEST_MOVE_CLIENTS").map(|yes| ("TEST_MOVE_CLIENTS", yes)))
        // With it, a client gets another server for every transaction.
        .envs(std::env::var("TEST_ROTATE_SERVERS").map(|yes| ("TEST_ROTATE_SERVERS", yes)))
        // With follow, all tests can be run with clients whose session state follows them.
        .envs(std::env::var("TEST_SESSION_STATE").map(|value| ("IAMBOUNCER_SESSION_STATE", value)))
        // After each transaction, the state of the server can be compared with what is recorded of it.
        .envs(std::env::var("TEST_STATE_VERIFY").map(|every| ("IAMBOUNCER_STATE_VERIFY", every)))
        .envs(root_user())
        .envs(environment.iter().map(|(k, v)| (k, v)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    end_with_the_test(&mut command);
    command
}

/// As root, the pooler requires a user; another one could not read the files of the tests.
pub fn root_user() -> Option<(&'static str, &'static str)> {
    rustix::process::geteuid().is_root().then_some(("IAMBOUNCER_USER", "root"))
}

/// Kills the process when the thread that starts it ends.
pub fn end_with_the_test(command: &mut Command) {
    // SAFETY: the call between fork and exec is a bare system call and allocates nothing.
    #[allow(unsafe_code, reason = "std offers no other way to tie a child to its parent's life")]
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            Ok(())
        });
    }
}
