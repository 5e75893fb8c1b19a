//! Programs in Python and Node, with the drivers and SDKs that `tools/drivers` installs below the target
//! directory. Owns their working directory and their view of `/etc/hosts`. Installs nothing: a test that
//! needs the packages fails without them.

use super::bouncer::end_with_the_test;
use super::program::{ProgramOutput, to_end};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The programs; each needs others in the same directory.
const SOURCES: &[(&str, &str)] = &[
    ("everyday.mjs", include_str!("../../drivers/everyday.mjs")),
    ("everyday.py", include_str!("../../drivers/everyday.py")),
    ("invoke.mjs", include_str!("../../drivers/invoke.mjs")),
    ("invoke.py", include_str!("../../drivers/invoke.py")),
    ("lambda.mjs", include_str!("../../drivers/lambda.mjs")),
    ("lambda_function.py", include_str!("../../drivers/lambda_function.py")),
];

/// Runs a command in its own mount namespace, with the given file mounted over `/etc/hosts`.
const WITH_HOSTS: &str = r#"mount --bind "$1" /etc/hosts && shift && exec "$@""#;

/// A directory below the target directory this test was built in.
fn driver_dir(name: &str) -> PathBuf {
    let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
    let driver_dir = target.join("drivers").join(name);
    assert!(driver_dir.join("stamp").exists(), "{} is not there; run tools/drivers", driver_dir.display());
    driver_dir
}

/// A program of the Python environment. Its only environment variable is `PATH`, and it ends with the test.
pub fn python(program: &str) -> Command {
    clean(driver_dir("python").join("bin").join(program))
}

fn clean(program: PathBuf) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path))).stdin(Stdio::null());
    end_with_the_test(&mut command);
    command
}

/// The languages of the test programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    Node,
    Python,
}

/// A copy of the programs, optionally with its own `/etc/hosts`.
pub struct Programs {
    dir: tempfile::TempDir,
    has_hosts: bool,
}

impl Programs {
    /// Copies the programs.
    pub fn unpack() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in SOURCES {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        // Node searches for modules only in the program's directory and its parents.
        std::os::unix::fs::symlink(driver_dir("node").join("node_modules"), dir.path().join("node_modules"))
            .unwrap();
        Self { dir, has_hosts: false }
    }

    /// Copies the programs; when run, they resolve these names to these addresses.
    pub fn with_hosts(names: &[(&str, &str)]) -> Self {
        let programs = Self::unpack();
        let lines = names.iter().map(|(name, address)| format!("{address} {name}\n"));
        std::fs::write(programs.hosts(), lines.collect::<String>()).unwrap();
        Self { has_hosts: true, ..programs }
    }

    /// Runs a program until it exits.
    pub fn run(
        &self,
        language: Language,
        name: &str,
        arguments: &[&str],
        environment: &[(String, String)],
    ) -> ProgramOutput {
        let (program, ending) = match language {
            Language::Node => (PathBuf::from("node"), "mjs"),
            Language::Python => (driver_dir("python").join("bin/python3"), "py"),
        };
        let mut command = if self.has_hosts { self.in_namespace(&program) } else { clean(program) };
        command.arg(self.dir.path().join(format!("{name}.{ending}"))).args(arguments);
        let output = to_end(command.envs(environment.iter().map(|(key, value)| (key, value))));
        let has_started = !output.stderr.contains("unshare:") && !output.stderr.contains("mount:");
        assert!(has_started, "its own /etc/hosts requires root or user namespaces: {output:?}");
        output
    }

    fn hosts(&self) -> PathBuf {
        self.dir.path().join("hosts")
    }

    /// Each step replaces the process with exec, so that a single process can be killed.
    fn in_namespace(&self, program: &Path) -> Command {
        let mut command = clean("unshare".into());
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--mount", "sh", "-c", WITH_HOSTS, "sh"]).arg(self.hosts()).arg(program);
        command
    }
}
