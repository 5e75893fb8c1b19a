//! PostgreSQL's parser, as a process that reads texts and writes trees. Owns the process; interprets no tree.

use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// What the parser says about a text.
pub(crate) struct Parsed {
    /// As of `pg_query_parse`.
    pub(crate) tree: Value,
    /// Strings and names in quotes: first byte, and the one behind the last.
    pub(crate) quoted: Vec<[usize; 2]>,
    /// Length of the text.
    len: usize,
}

impl Parsed {
    fn of(line: &str, len: usize) -> Option<Self> {
        let mut answer: Value = serde_json::from_str(line).expect("a line of JSON");
        if answer.is_null() {
            return None;
        }
        let quoted = serde_json::from_value(answer["quoted"].take()).expect("places");
        Some(Self { tree: answer["tree"].take(), quoted, len })
    }

    /// The places of its statements, which may begin with white space or comments.
    pub(crate) fn statements(&self) -> Vec<[usize; 2]> {
        let number = |value: &Value| value.as_u64().unwrap_or_default() as usize;
        let of_statement = |statement: &Value| {
            let (start, len) = (number(&statement["stmt_location"]), number(&statement["stmt_len"]));
            [start, if len == 0 { self.len } else { start + len }]
        };
        self.tree["stmts"].as_array().map(|all| all.iter().map(of_statement).collect()).unwrap_or_default()
    }
}

/// The process.
pub(crate) struct Parser {
    child: Child,
    texts: Option<ChildStdin>,
    lines: BufReader<ChildStdout>,
}

impl Parser {
    pub(crate) fn start() -> Self {
        let drivers = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().join("drivers/python");
        assert!(drivers.join("stamp").exists(), "{} is not there; run tools/drivers", drivers.display());
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/postgres_parser/parse.py");
        let mut child = Command::new(drivers.join("bin/python"))
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python starts");
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { texts: child.stdin.take(), lines, child }
    }

    /// What the parser says about a text; `None` if it refuses it.
    pub(crate) fn parse(&mut self, text: &str) -> Option<Parsed> {
        let input = self.texts.as_mut().unwrap();
        input.write_all(format!("{}\n{text}", text.len()).as_bytes()).expect("the parser runs");
        input.flush().expect("the parser runs");
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("the parser runs");
        assert!(!line.is_empty(), "the parser has ended at:\n{text}");
        Parsed::of(&line, text.len())
    }
}

impl Drop for Parser {
    fn drop(&mut self) {
        self.texts = None;
        let _ = self.child.wait();
    }
}
