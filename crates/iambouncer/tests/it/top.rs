//! `iambouncer top`: one frame as text, and the screen of a terminal.

use crate::support::bouncer::{Start, end_with_the_test};
use crate::support::program::{self, ProgramOutput};
use crate::support::{Bouncer, Client, TIMEOUT, eventually, postgres};
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

/// A pooler with one server for its clients, and the path of its console's socket.
fn pooler(dir: &tempfile::TempDir) -> (Bouncer, String) {
    let line = format!("app = host=127.0.0.1 port={} dbname=app pool_size=1", postgres().port());
    let directory = dir.path().display().to_string();
    let bouncer =
        Start::databases(&line).set(&format!("unix_socket_dir = {directory}")).set("workers = 2").start();
    let socket = format!("{directory}/.s.PGSQL.{}", bouncer.port);
    (bouncer, socket)
}

/// A client in a transaction, and one that waits for its server.
fn one_waits(bouncer: &Bouncer) -> [Client; 2] {
    let (mut holder, mut waiter) = (bouncer.client(), bouncer.client());
    holder.query("BEGIN");
    waiter.send_query("SELECT 1");
    let mut console = bouncer.console();
    eventually("a client waits", || console.pools("cl_waiting").contains(&"1".to_owned()));
    [holder, waiter]
}

#[test]
fn one_frame_is_printed_if_the_output_is_no_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let (bouncer, socket) = pooler(&dir);
    let _clients = one_waits(&bouncer);
    let ProgramOutput { code, stdout, stderr, .. } = program::run(&["top", "--socket", &socket], &[]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    for part in [
        "running, ready, up for",
        "clients: 2, 1 waiting   servers: 1 in use, 0 idle",
        "1 client waits for a server of app/app",
        "[1 Pools]",
        "waiting",
    ] {
        assert!(stdout.contains(part), "{part}:\n{stdout}");
    }
    let row = stdout.lines().find(|line| line.starts_with("app ")).unwrap();
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(cells[..8], ["app", "app", "transaction", "1", "1", "1", "0", "0"], "{row}");
    assert!(!stdout.contains('\x1b'), "{stdout:?}");
}

#[test]
fn a_pooler_that_does_not_run_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("absent").display().to_string();
    let output = program::run(&["top", "--socket", &socket], &[]);
    assert!(
        output.code == Some(1) && output.stderr.contains("neither a socket nor a directory"),
        "{output:?}"
    );
}

/// The program in a terminal of its own.
struct Terminal {
    child: Child,
    screen: Arc<Mutex<vt100::Parser>>,
}

impl Terminal {
    fn start(arguments: &str) -> Self {
        let binary = env!("CARGO_BIN_EXE_iambouncer");
        let mut command = Command::new("script");
        let shell = format!("stty cols 140 rows 40; exec {binary} {arguments}");
        command.args(["--quiet", "--flush", "--return", "--command", &shell, "/dev/null"]);
        command
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        end_with_the_test(&mut command);
        let mut child = command.spawn().unwrap();
        let screen = Arc::new(Mutex::new(vt100::Parser::new(40, 140, 0)));
        let (sink, mut stdout) = (screen.clone(), child.stdout.take().unwrap());
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(n @ 1..) = stdout.read(&mut chunk) {
                sink.lock().unwrap().process(&chunk[..n]);
            }
        });
        Self { child, screen }
    }

    fn press(&mut self, keys: &str) {
        self.child.stdin.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
    }

    fn shows(&self, part: &str) {
        self.shows_any(&[part]);
    }

    fn shows_any(&self, parts: &[&str]) {
        eventually(&format!("the screen has one of {parts:?}"), || {
            let contents = self.screen.lock().unwrap().screen().contents();
            parts.iter().any(|part| contents.contains(part))
        });
    }

    /// Waits until the program has left the screen that is for it alone.
    fn is_restored(&self) {
        eventually("the terminal is restored", || !self.screen.lock().unwrap().screen().alternate_screen());
    }
}

#[test]
fn keys_select_views_and_the_terminal_is_restored() {
    let dir = tempfile::tempdir().unwrap();
    let (bouncer, socket) = pooler(&dir);
    let _clients = one_waits(&bouncer);
    let mut terminal = Terminal::start(&format!("top --socket {socket}"));
    terminal.shows("transaction");
    assert!(terminal.screen.lock().unwrap().screen().alternate_screen());
    terminal.press("2");
    terminal.shows("all servers of the pool are in use");
    terminal.press("9");
    terminal.shows("auth_hba_file");
    terminal.press("\t");
    terminal.shows("last minutes");
    terminal.press("q");
    let deadline = std::time::Instant::now() + TIMEOUT;
    let status = loop {
        if let Some(status) = terminal.child.try_wait().unwrap() {
            break status;
        }
        assert!(std::time::Instant::now() < deadline, "top does not end");
        std::thread::yield_now();
    };
    assert_eq!(status.code(), Some(0));
    terminal.is_restored();
}

#[test]
fn the_screen_follows_a_restart_of_the_pooler() {
    let dir = tempfile::tempdir().unwrap();
    let (mut bouncer, socket) = pooler(&dir);
    let mut terminal = Terminal::start(&format!("top --socket {socket}"));
    terminal.shows("No problems.");
    let pid = bouncer.pid().as_raw_nonzero().to_string();
    terminal.shows(&pid);
    bouncer.signal(rustix::process::Signal::QUIT);
    bouncer.wait_for_end();
    // The file of the socket is removed, unless the process is killed.
    terminal.shows_any(&["no pooler at", "neither a socket nor a directory", "has closed the connection"]);
    let line = format!("app = host=127.0.0.1 port={} dbname=app", postgres().port());
    let directory = format!("unix_socket_dir = {}", dir.path().display());
    let port = format!("listen_port = {}", bouncer.port);
    let again = Start::databases(&line).set(&directory).set(&port).start();
    terminal.shows(&again.pid().as_raw_nonzero().to_string());
    terminal.press("q");
    terminal.is_restored();
}
