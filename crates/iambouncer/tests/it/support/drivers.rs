//! Programs in Python and Node, with the drivers and SDKs that `tools/drivers` has put below the target directory. Owns
//! the folder they run in, and what `/etc/hosts` is to them. Installs nothing: a test that needs them fails without.

use super::bouncer::end_with_the_test;
use super::program::{Ended, to_end};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The programs, of which each needs others beside it.
const SOURCES: &[(&str, &str)] = &[
    ("everyday.mjs", include_str!("../../drivers/everyday.mjs")),
    ("everyday.py", include_str!("../../drivers/everyday.py")),
    ("invoke.mjs", include_str!("../../drivers/invoke.mjs")),
    ("invoke.py", include_str!("../../drivers/invoke.py")),
    ("lambda.mjs", include_str!("../../drivers/lambda.mjs")),
    ("lambda_function.py", include_str!("../../drivers/lambda_function.py")),
];

/// Runs a command in a name space of its own, where `/etc/hosts` is the file in front of it.
const WITH_HOSTS: &str = r#"mount --bind "$1" /etc/hosts && shift && exec "$@""#;

/// The folder below the target directory that this test program was built in.
fn folder(name: &str) -> PathBuf {
    let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
    let folder = target.join("drivers").join(name);
    assert!(folder.join("stamp").exists(), "{} is not there; run tools/drivers", folder.display());
    folder
}

/// A program of the Python environment. It sees no variable but `PATH`, and ends with the test.
pub fn python(program: &str) -> Command {
    clean(folder("python").join("bin").join(program))
}

fn clean(program: PathBuf) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path))).stdin(Stdio::null());
    end_with_the_test(&mut command);
    command
}

/// The languages that programs are there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    Node,
    Python,
}

/// A copy of the programs, with a machine's own view of host names.
pub struct Programs {
    dir: tempfile::TempDir,
    has_hosts: bool,
}

impl Programs {
    /// Copies them.
    pub fn unpack() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in SOURCES {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        // Node looks for modules beside the program and above, and nowhere else.
        std::os::unix::fs::symlink(folder("node").join("node_modules"), dir.path().join("node_modules"))
            .unwrap();
        Self { dir, has_hosts: false }
    }

    /// Copies them; where they run, these names stand for these addresses.
    pub fn with_hosts(names: &[(&str, &str)]) -> Self {
        let programs = Self::unpack();
        let lines = names.iter().map(|(name, address)| format!("{address} {name}\n"));
        std::fs::write(programs.hosts(), lines.collect::<String>()).unwrap();
        Self { has_hosts: true, ..programs }
    }

    /// Runs one to its end.
    pub fn run(
        &self,
        language: Language,
        name: &str,
        arguments: &[&str],
        environment: &[(String, String)],
    ) -> Ended {
        let (program, ending) = match language {
            Language::Node => (PathBuf::from("node"), "mjs"),
            Language::Python => (folder("python").join("bin/python3"), "py"),
        };
        let mut command = if self.has_hosts { self.in_name_space(&program) } else { clean(program) };
        command.arg(self.dir.path().join(format!("{name}.{ending}"))).args(arguments);
        let ended = to_end(command.envs(environment.iter().map(|(key, value)| (key, value))));
        let has_started = !ended.stderr.contains("unshare:") && !ended.stderr.contains("mount:");
        assert!(
            has_started,
            "a view of /etc/hosts of its own takes root, or name spaces for users: {ended:?}"
        );
        ended
    }

    fn hosts(&self) -> PathBuf {
        self.dir.path().join("hosts")
    }

    /// Everything replaces its predecessor, so that it is one process that can be ended.
    fn in_name_space(&self, program: &Path) -> Command {
        let mut command = clean("unshare".into());
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--mount", "sh", "-c", WITH_HOSTS, "sh"]).arg(self.hosts()).arg(program);
        command
    }
}
