//! The environment of a run: processor, kernel, versions. Owns querying them; a fact that cannot be found is
//! "unknown" and never an error.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::entrants::Entrants;
use crate::process;
use crate::test_bed::TestBed;

/// The table at the top of the report.
pub(crate) struct Machine {
    facts: Vec<(&'static str, String)>,
}

impl Machine {
    /// Collects all facts. `load_before` is the load average before the run.
    pub(crate) fn collect(test_bed: &TestBed, entrants: &Entrants, load_before: String) -> Self {
        let version = |name| output_or_unknown(&test_bed.program(name), &["--version"]);
        let programs = entrants.0.iter().filter(|entrant| entrant.program.is_some());
        let versions = programs.map(|entrant| (entrant.contender.name(), entrant.version.clone()));
        let postgres = [("PostgreSQL", version("postgres")), ("pgbench", version("pgbench"))];
        Self::here(load_before, versions.chain(postgres))
    }

    /// Collects all facts; versions are given.
    pub(crate) fn here(load_before: String, versions: impl Iterator<Item = (&'static str, String)>) -> Self {
        let commit = output_or_unknown(
            Path::new("git"),
            &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"],
        );
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let mut facts = vec![
            ("Date", output_or_unknown(Path::new("date"), &["-u", "+%Y-%m-%d"])),
            ("Processor", processor()),
            ("Cores", cores.to_string()),
            ("Kernel", output_or_unknown(Path::new("uname"), &["-sr"])),
            ("Load before the run", load_before),
            ("Checkout", commit),
        ];
        facts.extend(versions);
        Self { facts }
    }

    /// Writes the table of facts.
    pub(crate) fn write(&self, page: &mut String, command: &str) {
        page.push_str("| | |\n|---|---|\n");
        for (name, value) in &self.facts {
            let _ = writeln!(page, "| {name} | {value} |");
        }
        let _ = writeln!(page, "| Command | `{command}` |\n");
    }
}

/// The three load averages.
pub(crate) fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let fields: Vec<_> = text.split_whitespace().take(3).collect();
    if fields.is_empty() { unknown() } else { fields.join(" ") }
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |name| text.lines().find(|line| line.starts_with(name))?.split_once(':');
    // ARM processors have no model name.
    let named = value("model name").or_else(|| value("CPU part"));
    named.map_or_else(unknown, |(_, name)| name.trim().to_owned())
}

fn output_or_unknown(program: &Path, args: &[&str]) -> String {
    process::read_output(program, args).unwrap_or_else(|_| unknown())
}

fn unknown() -> String {
    "unknown".to_owned()
}
