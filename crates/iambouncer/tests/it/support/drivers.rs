//! Programs in other languages, with the drivers and SDKs that `tools/drivers` installs below the target
//! directory or that Debian has (`tools/setup`). Owns their working directory, their view of `/etc/hosts` and
//! what is compiled of them. Installs nothing: a test that needs the packages fails without them.

use super::bouncer::{Bouncer, end_with_the_test};
use super::program::{ProgramOutput, to_end_within};
use super::tls_client::ClientSide;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

/// Includes files of `tests/drivers`.
macro_rules! sources {
    ($($name:literal)+) => { &[$(($name, include_str!(concat!("../../drivers/", $name)))),+] };
}

/// The programs; each needs others in the same directory.
const SOURCES: &[(&str, &str)] = sources![
    "EverydayJdbc.java"
    "everyday.go"
    "everyday.py"
    "everyday_asyncpg.py"
    "everyday_lib_pq.go"
    "everyday_node_postgres.mjs"
    "everyday_pgx.go"
    "everyday_psycopg.py"
    "everyday_psycopg2.py"
    "everyday_ruby_pg.rb"
    "invoke.mjs"
    "invoke.py"
    "lambda.mjs"
    "lambda_function.py"
];

/// Time limit of a program: several start at once on few cores.
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(60);
/// Time limit of a compiler, whose cache may be empty.
const COMPILER_TIMEOUT: Duration = Duration::from_secs(300);
/// Debian's JDBC driver and Go packages.
const JDBC_DRIVER: &str = "/usr/share/java/postgresql.jar";
const GO_PACKAGES: &str = "/usr/share/gocode";
/// Debian's Ruby, which has Debian's driver.
const RUBY: &str = "/usr/bin/ruby";
/// Shared by the programs in Go.
const GO_SHARED: &str = "everyday.go";

/// Runs a command in its own mount namespace, with the given file mounted over `/etc/hosts`.
const WITH_HOSTS: &str = r#"mount --bind "$1" /etc/hosts && shift && exec "$@""#;

/// The directory of drivers below the target directory this test was built in.
fn drivers_dir() -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(3).unwrap().join("drivers")
}

/// What `tools/drivers` has installed for a language.
fn driver_dir(name: &str) -> PathBuf {
    let driver_dir = drivers_dir().join(name);
    assert!(driver_dir.join("stamp").exists(), "{} is not there; run tools/drivers", driver_dir.display());
    driver_dir
}

/// A program of the Python environment. Of the environment it has only `PATH`, and it ends with the test.
pub fn python(program: &str) -> Command {
    clean(driver_dir("python").join("bin").join(program))
}

fn clean(program: PathBuf) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path))).stdin(Stdio::null());
    // Without a locale, Java and Ruby take texts for ASCII.
    command.env("LC_ALL", "C.UTF-8");
    end_with_the_test(&mut command);
    command
}

/// The languages of the test programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    Go,
    Java,
    Node,
    Python,
    Ruby,
}

/// Compiles a program in Go, once per run of the tests. Go's cache keeps what has not changed.
fn compiled(sources: &Path, name: &str) -> PathBuf {
    static COMPILED: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut compiled = COMPILED.lock().unwrap();
    if let Some(program) = compiled.get(name) {
        return program.clone();
    }
    let go = drivers_dir().join("go");
    std::fs::create_dir_all(&go).unwrap();
    let (program, new) = (go.join(name), go.join(format!("{name}.{}", std::process::id())));
    let mut command = clean("go".into());
    // Only the installed packages, and no C.
    command.envs([("GO111MODULE", "off"), ("GOPATH", GO_PACKAGES), ("GOENV", "off"), ("CGO_ENABLED", "0")]);
    command.env("GOCACHE", go.join("cache"));
    command.current_dir(sources).args(["build", "-o"]).arg(&new);
    let output = to_end_within(command.args([GO_SHARED, &format!("{name}.go")]), COMPILER_TIMEOUT);
    assert_eq!(output.code, Some(0), "{output:?}");
    // Another run may be executing the file, so it is replaced and not overwritten.
    std::fs::rename(new, &program).unwrap();
    compiled.insert(name.to_owned(), program.clone());
    program
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
        let words = self.command_line(language, name);
        let program = words[0].clone();
        let mut command = if self.has_hosts { self.in_namespace(&program) } else { clean(program) };
        command.args(&words[1..]).args(arguments).envs(environment.iter().map(|(key, value)| (key, value)));
        let output = to_end_within(&mut command, PROGRAM_TIMEOUT);
        let has_started = !output.stderr.contains("unshare:") && !output.stderr.contains("mount:");
        assert!(has_started, "its own /etc/hosts requires root or user namespaces: {output:?}");
        output
    }

    /// Interpreter and source, or the compiled program.
    fn command_line(&self, language: Language, name: &str) -> Vec<PathBuf> {
        let source = |ending: &str| self.dir.path().join(format!("{name}.{ending}"));
        match language {
            Language::Go => vec![compiled(self.dir.path(), name)],
            // Java compiles a single source by itself. These programs are short, so thorough optimization and
            // collectors with threads of their own cost more than they save.
            Language::Java => {
                let options = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", JDBC_DRIVER];
                options.into_iter().map(PathBuf::from).chain([source("java")]).collect()
            }
            Language::Node => vec!["node".into(), source("mjs")],
            Language::Python => vec![driver_dir("python").join("bin/python3"), source("py")],
            Language::Ruby => vec![RUBY.into(), source("rb")],
        }
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

/// What the pages of `docs` call Java's libraries by, and options of its programs.
const JAVA_LIBRARIES: [&str; 9] = [
    JDBC_DRIVER,
    "/usr/share/java/HikariCP.jar",
    "/usr/share/java/slf4j-api.jar",
    "/usr/share/java/slf4j-nop.jar",
    "/usr/share/java/spring3-core.jar",
    "/usr/share/java/spring3-beans.jar",
    "/usr/share/java/spring3-jdbc.jar",
    "/usr/share/java/spring3-transaction.jar",
    "/usr/share/java/commons-logging.jar",
];
const SHORT_JAVA: &str = "#!/bin/sh\nexec /usr/bin/java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC \"$@\"\n";

/// Makes the interpreters and packages available to the programs of a page in this directory, and returns the
/// environment in which they are found.
pub fn link_page_tools(dir: &Path) -> Vec<(String, String)> {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let bin = dir.join("bin");
    std::fs::create_dir(&bin).unwrap();
    let python = driver_dir("python").join("bin/python3");
    for name in ["python", "python3"] {
        // A link would not be recognized as a part of the environment.
        script(&bin.join(name), &format!("#!/bin/sh\nexec {} \"$@\"\n", python.display()));
    }
    script(&bin.join("java"), SHORT_JAVA);
    let this = std::env::current_exe().unwrap();
    symlink(this.ancestors().nth(2).unwrap().join("examples/sqlx_page"), bin.join("orders")).unwrap();
    link_node_packages(dir, "node");
    let path = std::env::var("PATH").unwrap();
    let cache = drivers_dir().join("go/cache").display().to_string();
    return variables([
        ("PATH", format!("{}:/usr/bin:{path}", bin.display())),
        ("LC_ALL", "C.UTF-8".to_owned()),
        ("PYTHONDONTWRITEBYTECODE", "1".to_owned()),
        ("CLASSPATH", JAVA_LIBRARIES.join(":")),
        ("GO111MODULE", "off".to_owned()),
        ("GOPATH", GO_PACKAGES.to_owned()),
        ("GOENV", "off".to_owned()),
        ("CGO_ENABLED", "0".to_owned()),
        ("GOCACHE", cache),
    ]);

    fn script(path: &Path, text: &str) {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// Node searches for packages in the directory of the program.
pub fn link_node_packages(dir: &Path, name: &str) {
    let link = dir.join("node_modules");
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(driver_dir(name).join("node_modules"), link).unwrap();
}

fn variables<const N: usize>(pairs: [(&str, String); N]) -> Vec<(String, String)> {
    pairs.map(|(name, value)| (name.to_owned(), value)).to_vec()
}

/// The environment through which drivers find their server without code.
pub fn libpq_environment(bouncer: &Bouncer, password: &str) -> Vec<(String, String)> {
    variables([
        ("PGHOST", "127.0.0.1".to_owned()),
        ("PGPORT", bouncer.port.to_string()),
        ("PGUSER", "app".to_owned()),
        ("PGDATABASE", "app".to_owned()),
        ("PGPASSWORD", password.to_owned()),
    ])
}

/// With which they verify the server's certificate.
pub fn libpq_tls_environment(side: &ClientSide) -> Vec<(String, String)> {
    variables([
        ("PGSSLMODE", "verify-full".to_owned()),
        ("PGSSLROOTCERT", side.authority_file().display().to_string()),
    ])
}
