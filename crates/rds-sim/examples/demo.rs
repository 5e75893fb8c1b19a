//! `make demo`: shows iambouncer at work on a machine without AWS.
//!
//! Owns: a PostgreSQL behind the simulated RDS, credentials, iambouncer in front of it, and five steps that
//! are checked as they run. With `ONCE=1` it exits after them, with a nonzero code if one failed.
//! Never: prints a token or a key, or leaves anything behind, even if killed: PostgreSQL and iambouncer each
//! have a supervising shell that stops them when this process has exited.

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rds_sim::postgres::{Postgres, PostgresOptions};
use rds_sim::{
    Backend, Certificates, CredentialServer, CredentialSettings, IamFrontend, IamFrontendOptions,
    LoginAttempt, LoginOutcome, Simulator, TokenTarget,
};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

/// The database host; as with a tunnel, since an RDS name would not resolve.
const HOST: &str = "localhost";
/// The endpoint's name in tokens and in the certificate.
const ENDPOINT: &str = "mydb.c9akciq32rgh.eu-west-1.rds.amazonaws.com";
/// Lifetime of the certificate in days, as with RDS.
const CERTIFICATE_DAYS: i64 = 365;
const REGION: &str = "eu-west-1";
/// The database user, a member of `rds_iam`, and the database.
const USER: &str = "app";
/// The application's user name. Without a configuration file, iambouncer accepts any name.
const CLIENT: &str = "django";
const CLIENTS: usize = 40;
const SERVERS: usize = 5;
const PGBENCH_SECONDS: u64 = 5;
/// Lifetime of a token.
const TOKEN_LIFE_SECONDS: i64 = 15 * 60;
/// How far past its expiry the first token is moved. The pooler's own clock is unchanged, so tokens signed
/// now appear as old as the offset, which must stay below the lifetime of a token.
const BEYOND_END_SECONDS: i64 = 3;
/// Time limit for anything to start.
const START_TIMEOUT: Duration = Duration::from_secs(15);
/// Time limit of a command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("demo: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(demo()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Everything that is started belongs to the steps or to the demo, and is stopped when they are dropped.
async fn demo() -> Result<ExitCode> {
    let demo = tokio::select! {
        demo = steps() => demo?,
        interrupted = interruption() => {
            interrupted?;
            println!("\ninterrupted");
            return Ok(ExitCode::FAILURE);
        }
    };
    if std::env::var("ONCE").is_ok_and(|value| !matches!(value.as_str(), "" | "0")) {
        println!("\nAll five steps succeeded.");
        return Ok(ExitCode::SUCCESS);
    }
    demo.print_how_to_connect();
    interruption().await?;
    println!();
    Ok(ExitCode::SUCCESS)
}

async fn steps() -> Result<Demo> {
    let demo = Demo::set_up().await?;
    demo.print_setup();
    demo.a_password_is_refused().await?;
    demo.psql_logs_in().await?;
    demo.many_clients_share_few_servers().await?;
    demo.the_clock_is_advanced().await?;
    demo.doctor_finds_the_cause().await?;
    Ok(demo)
}

/// Waits for Ctrl-C or a similar signal.
async fn interruption() -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}

/// All parts, in the order in which they are dropped.
struct Demo {
    binary: PathBuf,
    environment: Vec<(String, String)>,
    pooler: Pooler,
    door: IamFrontend,
    credentials: CredentialServer,
    simulator: Simulator,
    postgres: Postgres,
}

impl Demo {
    async fn set_up() -> Result<Self> {
        let binary = pooler_binary()?;
        let postgres = tokio::task::spawn_blocking(start_postgres).await??;
        let simulator = Simulator::default();
        let certificates = Certificates::generate_until(&[ENDPOINT.to_owned()], Some(CERTIFICATE_DAYS))?;
        // In the server's directory, which is removed even if this process is killed.
        let ca_file = postgres.socket_dir().join("ca.pem");
        std::fs::write(&ca_file, certificates.ca_pem())?;
        let listen = "127.0.0.1:0".parse()?;
        let options = IamFrontendOptions {
            listen,
            target: TokenTarget { hosts: vec![ENDPOINT.to_owned()], port: 0, region: REGION.to_owned() },
            iam_users: vec![USER.to_owned()],
            backend: Backend::from(&postgres),
            force_ssl: true,
            certificates,
        };
        let door = IamFrontend::open(&simulator, options).await?;
        let credentials = CredentialServer::start(&simulator, listen, CredentialSettings::default()).await?;
        let log_file = postgres.socket_dir().join("iambouncer.log");
        let environment = pooler_environment(&door, &credentials, &ca_file, &log_file);
        let pooler = Pooler::start(&binary, &environment, log_file).await?;
        Ok(Self { binary, environment, pooler, door, credentials, simulator, postgres })
    }

    fn print_setup(&self) {
        let (door, credentials) = (self.door.address(), self.credentials.address());
        println!("PostgreSQL    behind {door}, which accepts only IAM tokens, like RDS");
        println!("AWS           {credentials} simulates the metadata service with the instance's role");
        println!(
            "iambouncer    127.0.0.1:{}, without a configuration file; its environment:",
            self.pooler.port
        );
        println!(
            "              RDS_HOST={HOST} DB_PORT={} DB_USERNAME={USER} DB_NAME={USER} AWS_REGION={REGION}",
            door.port()
        );
        println!("              IAMBOUNCER_IAM_HOST={ENDPOINT} IAMBOUNCER_IAM_PORT={}", door.port());
        println!(
            "              (and at most {SERVERS} servers, a free port, the CA of this demo, a log file)"
        );
    }

    async fn a_password_is_refused(&self) -> Result<()> {
        let port = self.door.address().port();
        step("1  A password sent to the database directly");
        let url = format!("host=127.0.0.1 port={port} user={USER} dbname={USER} sslmode=require");
        print_command(&format!("PGPASSWORD=guess psql \"{url}\""));
        let mut psql = self.program("psql");
        psql.env("PGPASSWORD", "guess").args(["-X", "-c", "select 1", &url]);
        let output = run(psql).await?;
        let error =
            output.stderr.rsplit_once("FATAL:").map_or(output.stderr.as_str(), |(_, text)| text.trim());
        print_result(&format!("FATAL: {error}"));
        let expected = format!("PAM authentication failed for user \"{USER}\"");
        ensure!(
            !output.success && error == expected,
            "step 1: expected {expected:?}, got {:?}",
            output.stderr
        );
        Ok(())
    }

    async fn psql_logs_in(&self) -> Result<()> {
        step("2  The same database through iambouncer: no password, no AWS settings");
        let answer = self.psql(USER, "select 'hello, ' || current_user").await?;
        ensure!(answer == format!("hello, {USER}"), "step 2: psql printed {answer:?}");
        print_result(&answer);
        let accepted = self.accepted();
        ensure!(accepted.len() == 1, "step 2: the endpoint accepted {} tokens", accepted.len());
        print_result("at the endpoint: 1 token made by iambouncer accepted");
        Ok(())
    }

    async fn many_clients_share_few_servers(&self) -> Result<()> {
        step(&format!("3  {CLIENTS} clients of pgbench on {SERVERS} server connections"));
        let mut fill = self.pgbench();
        fill.args(["-i", "-q", USER]);
        let output = run(fill).await?;
        ensure!(output.success, "step 3: pgbench -i failed: {}", output.stderr);
        self.bench(PGBENCH_SECONDS, "step 3").await?;
        let servers = self.servers();
        print_result(&format!(
            "servers used: {servers}; logins at the endpoint: {}, with 1 token",
            self.accepted().len()
        ));
        ensure!((1..=SERVERS).contains(&servers), "step 3: {servers} servers");
        ensure!(self.tokens().len() == 1, "step 3: {} tokens", self.tokens().len());
        Ok(())
    }

    async fn the_clock_is_advanced(&self) -> Result<()> {
        step("4  The clock is moved past the token's expiry");
        let first = *self.tokens().first().context("no token was made")?;
        let moved = self.move_clock_past(first).await;
        let age = unix_now() + moved - first;
        print_result(&format!(
            "the database's clock: {moved} s ahead, so the first token is {age} s old; the limit is {TOKEN_LIFE_SECONDS} s"
        ));
        let mark = self.simulator.log().attempts().len();
        self.psql_console("reconnect").await?;
        let answer = self.psql(USER, "select 'still here'").await?;
        ensure!(answer == "still here", "step 4: psql printed {answer:?}");
        print_result(&answer);
        let attempts = self.simulator.log().attempts().split_off(mark);
        self.print_logins(&attempts, first)?;
        self.bench(1, "step 4").await?;
        let logins = self.accepted().len() - accepted(&self.simulator.log().attempts()[..mark]).len();
        ensure!(logins > 1, "step 4: {logins} new logins");
        print_result(&format!("new logins since the clock was moved: {logins}"));
        // Tokens that iambouncer signs with its own clock must stay valid for another 15 minutes.
        self.simulator.clock().advance(-moved);
        Ok(())
    }

    /// Both attempts of a login are refused, as they would be without a policy.
    async fn doctor_finds_the_cause(&self) -> Result<()> {
        step("5  The role has lost its policy; doctor runs in iambouncer's environment");
        self.simulator.faults().set(|faults| faults.refuse_next = 2);
        print_command("iambouncer doctor");
        let mut doctor = Command::new(&self.binary);
        doctor.arg("doctor").env_clear().envs(self.environment.iter().map(|(key, value)| (key, value)));
        doctor.env("AWS_ENDPOINT_URL_STS", format!("http://{}", self.credentials.address()));
        let output = run(doctor).await?;
        println!("{}", output.stdout);
        let missing =
            ["✘ login ", "✘ IAM003: ", ":dbuser:"].into_iter().find(|part| !output.stdout.contains(part));
        ensure!(!output.success && missing.is_none(), "step 5: expected a failure and {missing:?} in it");
        Ok(())
    }

    /// Moves the simulator's clock until a token signed at `signed_at` has just expired; first waits until
    /// tokens signed from now on stay valid for a few seconds. Returns the offset.
    async fn move_clock_past(&self, signed_at: i64) -> i64 {
        loop {
            let age = unix_now() - signed_at;
            if age >= 2 * BEYOND_END_SECONDS {
                let distance = TOKEN_LIFE_SECONDS + BEYOND_END_SECONDS - age;
                self.simulator.clock().advance(distance);
                return distance;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Reports the logins after the clock was moved.
    fn print_logins(&self, attempts: &[LoginAttempt], first_token: i64) -> Result<()> {
        let refused = attempts.iter().find_map(|attempt| match &attempt.outcome {
            LoginOutcome::Refused { reason } => Some(reason.clone()),
            _ => None,
        });
        let refused = refused.context("step 4: the old token was not refused")?;
        ensure!(refused.starts_with("expired"), "step 4: refused because: {refused}");
        print_result(&format!("at the endpoint: the old token refused ({refused})"));
        let fresh = accepted(attempts);
        let signed_at = *fresh.last().context("step 4: no fresh token was accepted")?;
        ensure!(signed_at > first_token, "step 4: the token is not a fresh one");
        print_result(&format!("at the endpoint: a token made {} s ago accepted", unix_now() - signed_at));
        Ok(())
    }

    fn print_how_to_connect(&self) {
        let port = self.pooler.port;
        println!("\nThe demo keeps running. Connect from another terminal, as any user:");
        println!("   psql \"host=127.0.0.1 port={port} user={CLIENT} dbname={USER}\"");
        println!("   psql \"host=127.0.0.1 port={port} user={CLIENT} dbname=pgbouncer\" -c \"show pools\"");
        println!("Press Ctrl-C to stop everything.");
    }

    /// Prints and runs a query through the pooler.
    async fn psql(&self, database: &str, sql: &str) -> Result<String> {
        let url = format!("host=127.0.0.1 port={} user={CLIENT} dbname={database}", self.pooler.port);
        print_command(&format!("psql \"{url}\" -c \"{sql}\""));
        let mut psql = self.program("psql");
        psql.args(["-X", "-q", "-A", "-t", "-c", sql, &url]);
        let output = run(psql).await?;
        ensure!(output.success, "psql failed: {}\niambouncer's log:\n{}", output.stderr, self.pooler.log());
        Ok(output.stdout.trim().to_owned())
    }

    async fn psql_console(&self, command: &str) -> Result<String> {
        self.psql("pgbouncer", command).await
    }

    /// A program of the application, which has an address and no AWS settings.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.postgres.bin_dir().join(name));
        command.env_clear().env("LC_ALL", "C.UTF-8").env("PGCONNECT_TIMEOUT", "20").current_dir("/");
        command
    }

    fn pgbench(&self) -> Command {
        let mut pgbench = self.program("pgbench");
        pgbench.args(["-h", "127.0.0.1", "-p", &self.pooler.port.to_string(), "-U", CLIENT]);
        pgbench
    }

    async fn bench(&self, seconds: u64, step: &str) -> Result<()> {
        let (clients, time) = (CLIENTS.to_string(), seconds.to_string());
        let words = ["-n", "-S", "-M", "prepared", "-c", &clients, "-j", "2", "-T", &time];
        print_command(&format!(
            "pgbench {} -h 127.0.0.1 -p {} -U {CLIENT} {USER}",
            words.join(" "),
            self.pooler.port
        ));
        let mut pgbench = self.pgbench();
        pgbench.args(words).arg(USER);
        let output = run(pgbench).await?;
        ensure!(output.success, "{step}: pgbench failed: {}\n{}", output.stderr, self.pooler.log());
        let line =
            |start: &str| output.stdout.lines().find_map(|line| line.strip_prefix(start)).map(str::trim);
        let tps = line("tps = ")
            .and_then(|rest| rest.split(['.', ' ']).next())
            .context("pgbench printed no tps")?;
        let failed = line("number of failed transactions:").unwrap_or("0 (0.000%)");
        print_result(&format!("{tps} transactions per second, failed: {failed}"));
        ensure!(failed.starts_with("0 "), "{step}: transactions failed");
        Ok(())
    }

    /// Number of sessions of the database user in PostgreSQL.
    fn servers(&self) -> usize {
        let sql = format!("select count(*) from pg_stat_activity where usename = '{USER}'");
        self.postgres.sql(&sql).ok().and_then(|count| count.parse().ok()).unwrap_or(0)
    }

    /// Signing times of the tokens of all accepted logins.
    fn accepted(&self) -> Vec<i64> {
        accepted(&self.simulator.log().attempts())
    }

    /// The tokens accepted so far, identified by their signing times.
    fn tokens(&self) -> Vec<i64> {
        let mut tokens = self.accepted();
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }
}

fn accepted(attempts: &[LoginAttempt]) -> Vec<i64> {
    let signed_at = attempts.iter().filter_map(|attempt| match &attempt.outcome {
        LoginOutcome::Accepted { age_seconds, .. } => Some(attempt.at_seconds - age_seconds),
        _ => None,
    });
    signed_at.collect()
}

fn start_postgres() -> Result<Postgres> {
    let postgres = Postgres::start(&PostgresOptions::default())?;
    postgres.sql(&format!("create role {USER} login"))?;
    postgres.sql(&format!("create database {USER} owner {USER}"))?;
    Ok(postgres)
}

/// The variables of a manifest, and those needed on a machine without AWS.
fn pooler_environment(
    door: &IamFrontend,
    credentials: &CredentialServer,
    ca_file: &Path,
    log_file: &Path,
) -> Vec<(String, String)> {
    let mut environment = vec![
        ("RDS_HOST", HOST.to_owned()),
        ("IAMBOUNCER_IAM_HOST", ENDPOINT.to_owned()),
        ("DB_PORT", door.address().port().to_string()),
        ("IAMBOUNCER_IAM_PORT", door.address().port().to_string()),
        ("DB_USERNAME", USER.to_owned()),
        ("DB_NAME", USER.to_owned()),
        ("AWS_REGION", REGION.to_owned()),
        ("IAMBOUNCER_DEFAULT_POOL_SIZE", SERVERS.to_string()),
        ("IAMBOUNCER_LISTEN_PORT", "0".to_owned()),
        // No probes: with them the pooler would log in once before the first client.
        ("IAMBOUNCER_HTTP_PORT", "0".to_owned()),
        ("IAMBOUNCER_SERVER_TLS_CA_FILE", ca_file.display().to_string()),
        ("IAMBOUNCER_LOGFILE", log_file.display().to_string()),
    ];
    environment.extend(credentials.imds_environment());
    environment.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Cargo puts examples one directory below programs.
fn pooler_binary() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let target = own.ancestors().nth(2).context("the demo has no parent directory")?;
    let binary = target.join("iambouncer");
    if !binary.is_file() {
        bail!("{} does not exist: run `make demo`, which builds it", binary.display());
    }
    Ok(binary)
}

/// Starts the pooler and stops it when standard input is closed, which means that this process has exited.
const SUPERVISOR: &str = r#"
"$1" </dev/null >/dev/null 2>>"$2" &
pid=$!
read -r _
kill -QUIT $pid 2>/dev/null
wait $pid
"#;

/// A running iambouncer.
struct Pooler {
    port: u16,
    log_file: PathBuf,
    supervisor: Child,
}

impl Pooler {
    async fn start(binary: &Path, environment: &[(String, String)], log_file: PathBuf) -> Result<Self> {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", SUPERVISOR, "demo-iambouncer"]).arg(binary).arg(&log_file);
        shell.env_clear().envs(environment.iter().map(|(key, value)| (key, value)));
        // A separate process group: Ctrl-C reaches only this process, whose exit then stops the pooler.
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
        let supervisor = shell.spawn().context("starting iambouncer")?;
        let mut pooler = Self { port: 0, log_file, supervisor };
        let deadline = Instant::now() + START_TIMEOUT;
        while pooler.port == 0 {
            ensure!(Instant::now() < deadline, "iambouncer did not become ready:\n{}", pooler.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
            pooler.port = port_in(&pooler.log()).unwrap_or(0);
        }
        Ok(pooler)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log_file).unwrap_or_default()
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        let deadline = Instant::now() + START_TIMEOUT;
        while matches!(self.supervisor.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn port_in(log: &str) -> Option<u16> {
    let (_, rest) = log.split_once("ready: accepting connections on 127.0.0.1:")?;
    rest.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

#[derive(Debug)]
struct DemoOutput {
    success: bool,
    stdout: String,
    stderr: String,
}

async fn run(mut command: Command) -> Result<DemoOutput> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(COMMAND_TIMEOUT, command.output()).await;
    let output = output.with_context(|| format!("{command:?} did not exit"))??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    Ok(DemoOutput {
        success: output.status.success(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    })
}

fn unix_now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn step(title: &str) {
    println!("\n{title}");
}

fn print_command(command: &str) {
    println!("   $ {command}");
}

fn print_result(line: &str) {
    println!("     {line}");
}
