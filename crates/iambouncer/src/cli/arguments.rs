//! Command-line arguments parsed by clap. Owns names and help texts; makes no decisions.

use crate::config::{CONFIG_VARIABLE, ZeroConfigFlags};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// PostgreSQL connection pooler that logs in to Amazon RDS and Aurora with IAM.
#[derive(Parser)]
#[command(version, disable_version_flag = true, args_conflicts_with_subcommands = true, after_help = AFTER_HELP)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Option<CliCommand>,
    /// Print version.
    #[arg(short = 'V', long)]
    pub(super) version: bool,
    #[command(flatten)]
    pub(super) run: RunArguments,
}

const AFTER_HELP: &str = "\
A configuration file has PgBouncer's sections: [databases], [pgbouncer], [users]. Without a file, TARGET or the environment names the \
database: RDS_HOST DB_PORT DB_NAME DB_USERNAME AWS_REGION, or AWS_IAM AWS_RDS_REGION DB_HOST DB_PORT DB_NAME DB_USER. \
Every setting can also be given as IAMBOUNCER_<SETTING>.";

#[derive(Subcommand)]
pub(super) enum CliCommand {
    /// Serves clients (the default).
    Run(RunArguments),
    /// Checks a configuration file and reports errors.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Finds out what prevents a login, and what to do about it.
    Doctor(Doctor),
    /// Writes through a pooler while its database fails over, and reports what became of the entries.
    Drill(DrillArguments),
    /// Prints an IAM token, for use as a password within 15 minutes.
    Token(TokenArguments),
    /// Prints what a login needs: the IAM policy, the SQL grants, Terraform.
    Policy(Policy),
    /// Runs a command with a pooler of its own; PG* and DATABASE_URL point to it.
    Exec(Exec),
    /// Runs psql with a pooler of its own.
    Connect(Connect),
    /// Queries the health of a running pooler; for container health checks.
    Healthcheck(Healthcheck),
    /// Waits until a running pooler has started.
    Wait(Wait),
    /// Drains a running pooler: its clients are closed between transactions, then it stops.
    Drain(Drain),
    /// Has a running pooler read its configuration again.
    Reload {
        #[command(flatten)]
        console: ConsoleArguments,
    },
    /// Has a running pooler release its servers and hold its clients; waits until that has happened.
    Pause(PauseArguments),
    /// Undoes pause.
    Resume(PauseArguments),
    /// Stops a running pooler.
    Shutdown(Shutdown),
    /// Shows what a running pooler is doing.
    Status(Status),
    /// Shows what a running pooler is doing, on a screen that is updated every second.
    Top(Top),
    /// Prints the SCRAM secret of a password, for auth_file or ALTER ROLE.
    Hash(Hash),
    /// Lists the built-in certificate authorities, with their origin and expiry.
    Authorities,
    /// Prints a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Prints the manual page.
    Man,
}

/// The server, without a file. Missing values are taken from the environment.
#[derive(Args, Clone, Default)]
pub(super) struct ServerArguments {
    /// User on the server (without a file).
    #[arg(long, short = 'U')]
    user: Option<String>,
    /// Database on the server (without a file).
    #[arg(long, short = 'D')]
    database: Option<String>,
    /// Port of the server (without a file).
    #[arg(long)]
    port: Option<u16>,
    /// Region of the database, if its endpoint does not contain it.
    #[arg(long)]
    region: Option<String>,
    /// Endpoint to sign tokens for, if it differs from the host to connect to.
    #[arg(long)]
    iam_host: Option<String>,
    /// Port to sign tokens for.
    #[arg(long)]
    iam_port: Option<u16>,
    /// Secret of AWS Secrets Manager with user name and password, instead of IAM.
    #[arg(long)]
    secret_arn: Option<String>,
    /// Profile of the shared AWS configuration.
    #[arg(long)]
    aws_profile: Option<String>,
    /// Role to assume.
    #[arg(long)]
    aws_role_arn: Option<String>,
    /// External ID that the role's trust policy requires.
    #[arg(long)]
    aws_external_id: Option<String>,
    /// Session name that CloudTrail shows for the role.
    #[arg(long)]
    aws_role_session_name: Option<String>,
    /// Any setting, as KEY=VALUE. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    settings: Vec<(String, String)>,
}

#[derive(Args)]
pub(super) struct RunArguments {
    /// A configuration file, or the endpoint of a database.
    pub(super) target: Option<String>,
    #[command(flatten)]
    pub(super) server: ServerArguments,
    /// Address to listen on.
    #[arg(long)]
    listen_addr: Option<String>,
    /// Port to listen on, or several, separated by commas.
    #[arg(long, short = 'p')]
    listen_port: Option<String>,
    /// Run in the background; requires pidfile, and logfile or syslog.
    #[arg(long, short)]
    pub(super) daemon: bool,
    /// System user to switch to after TCP ports were bound, instead of the setting `user`. With a file, --user is the same.
    #[arg(short = 'u', value_name = "SYSTEM_USER")]
    system_user: Option<String>,
    /// Log more. May be repeated.
    #[arg(long, short, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
    /// Do not log to standard error.
    #[arg(long, short)]
    pub(super) quiet: bool,
    /// Not supported: explains how to restart without interruption.
    #[arg(long, short = 'R')]
    pub(super) reboot: bool,
    /// The second process of --daemon.
    #[arg(long = super::background::IN_BACKGROUND, hide = true)]
    pub(super) in_background: bool,
}

#[derive(Args)]
pub(super) struct Doctor {
    /// A configuration file, or the endpoint of a database.
    pub(super) target: Option<String>,
    /// With a file, --database selects a line and --user is for lines that have no user.
    #[command(flatten)]
    pub(super) server: ServerArguments,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
    /// Exit with status 1 for warnings, too.
    #[arg(long)]
    pub(super) strict: bool,
    /// Log the steps of each login.
    #[arg(long, short, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
}

/// The pooler is HOST or HOST:PORT; the password is that of the variable PGPASSWORD.
#[derive(Args)]
pub(super) struct DrillArguments {
    /// The pooler to write through.
    pub(super) target: String,
    /// The user.
    #[arg(long, short = 'U')]
    pub(super) user: String,
    /// The database.
    #[arg(long, short = 'D')]
    pub(super) database: String,
    /// TLS to the pooler: disable, prefer, require, verify-ca or verify-full.
    #[arg(long, default_value = "prefer")]
    pub(super) sslmode: String,
    /// Clients that write.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) clients: u32,
    /// Entries per second, of all clients together.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) rate: u32,
    /// Seconds to write for; Ctrl-C ends it earlier.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(super) seconds: u64,
    /// Name of the table. It is created, and dropped at the end.
    #[arg(long, default_value = "iambouncer_drill", value_parser = table_name)]
    pub(super) table: String,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// Output format of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum TokenFormat {
    /// The token and a newline.
    Raw,
    /// Lines for a shell: export PGHOST=… PGPASSWORD=…
    Env,
    /// A JSON object with token, host, port, user, region and expiry.
    Json,
    /// A connection URL.
    Url,
    /// A line for ~/.pgpass.
    Pgpass,
}

#[derive(Args)]
pub(super) struct TokenArguments {
    /// The endpoint of the database.
    pub(super) target: Option<String>,
    #[command(flatten)]
    pub(super) server: ServerArguments,
    /// How to print it.
    #[arg(long, value_enum, default_value = "raw")]
    pub(super) format: TokenFormat,
    /// Print a proof of the AWS identity for a pooler with auth_type = iam-sts, instead of an RDS token.
    #[arg(long, requires = "audience", conflicts_with_all = ["target", "format"])]
    pub(super) sts: bool,
    /// Audience of the proof: the pooler's iam_sts_audience.
    #[arg(long, requires = "sts")]
    pub(super) audience: Option<String>,
}

/// Output format of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum PolicyFormat {
    /// The IAM policy.
    Json,
    /// The SQL statements for the database.
    Sql,
    /// The same policy for Terraform.
    Terraform,
    /// All of them, with explanations.
    All,
}

#[derive(Args)]
pub(super) struct Policy {
    /// The endpoint of the database.
    pub(super) target: Option<String>,
    #[command(flatten)]
    pub(super) server: ServerArguments,
    /// Account of the database, twelve digits; by default the account of the credentials, as reported by STS.
    #[arg(long, value_parser = account)]
    pub(super) account: Option<String>,
    /// Resource ID of the instance (db-…), cluster (cluster-…) or proxy (prx-…).
    #[arg(long, value_parser = resource_id)]
    pub(super) resource_id: String,
    /// What to print.
    #[arg(long, value_enum, default_value = "all")]
    pub(super) format: PolicyFormat,
}

#[derive(Args)]
pub(super) struct Exec {
    /// The endpoint of the database.
    #[arg(long = "host", short = 'H')]
    pub(super) target: Option<String>,
    #[command(flatten)]
    pub(super) server: ServerArguments,
    /// The command and its arguments, after `--`.
    #[arg(last = true, required = true, num_args = 1.., value_name = "COMMAND")]
    pub(super) command: Vec<std::ffi::OsString>,
}

#[derive(Args)]
pub(super) struct Connect {
    /// The endpoint of the database.
    pub(super) target: Option<String>,
    #[command(flatten)]
    pub(super) server: ServerArguments,
    /// Arguments for psql, after `--`.
    #[arg(last = true, value_name = "ARGUMENTS")]
    pub(super) arguments: Vec<std::ffi::OsString>,
}

/// A probe of a running pooler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Probe {
    /// The pooler has started.
    Startup,
    /// The event loops of the workers run.
    Liveness,
    /// The pooler accepts clients.
    Readiness,
}

#[derive(Args)]
pub(super) struct Healthcheck {
    /// The probe.
    #[arg(value_enum, default_value = "readiness")]
    pub(super) probe: Probe,
    /// Address of the pooler's HTTP endpoint.
    #[arg(long, default_value = "127.0.0.1:9127", env = "IAMBOUNCER_HTTP")]
    pub(super) address: String,
    /// Seconds to wait for the answer.
    #[arg(long, default_value_t = 2)]
    pub(super) timeout: u64,
}

#[derive(Args)]
pub(super) struct Wait {
    /// Maximum time to wait, in seconds.
    #[arg(long, default_value_t = 30)]
    pub(super) max: u64,
    /// Address of the pooler's HTTP endpoint.
    #[arg(long, default_value = "127.0.0.1:9127", env = "IAMBOUNCER_HTTP")]
    pub(super) address: String,
}

/// Where the console of a running pooler is.
#[derive(Args)]
pub(super) struct ConsoleArguments {
    /// The pooler's UNIX socket, or its directory; @NAME is abstract. By default unix_socket_dir and the first listen_port
    /// of --config, IAMBOUNCER_UNIX_SOCKET_DIR and IAMBOUNCER_LISTEN_PORT, or 6432 in /tmp, or @iambouncer if there is none.
    #[arg(long, value_name = "PATH_OR_DIRECTORY")]
    pub(super) socket: Option<String>,
    /// The pooler's configuration file.
    #[arg(long, value_name = "FILE", env = CONFIG_VARIABLE)]
    pub(super) config: Option<PathBuf>,
    /// Seconds to wait for the answer.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(super) timeout: u64,
}

#[derive(Args)]
pub(super) struct Drain {
    #[command(flatten)]
    pub(super) console: ConsoleArguments,
    /// Wait until the process has stopped.
    #[arg(long)]
    pub(super) wait: bool,
    /// Maximum time to wait, in seconds; by default drain_max_seconds and 5 more.
    #[arg(long, requires = "wait", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(super) max: Option<u64>,
}

#[derive(Args)]
pub(super) struct PauseArguments {
    /// One database; all without it.
    pub(super) database: Option<String>,
    #[command(flatten)]
    pub(super) console: ConsoleArguments,
}

#[derive(Args)]
pub(super) struct Shutdown {
    #[command(flatten)]
    pub(super) console: ConsoleArguments,
    /// Stop when all servers are released; waiting clients are closed.
    #[arg(long, conflicts_with = "wait_for_clients")]
    pub(super) wait_for_servers: bool,
    /// Stop when all clients have disconnected.
    #[arg(long)]
    pub(super) wait_for_clients: bool,
}

#[derive(Args)]
pub(super) struct Status {
    #[command(flatten)]
    pub(super) console: ConsoleArguments,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Args)]
pub(super) struct Top {
    #[command(flatten)]
    pub(super) console: ConsoleArguments,
    /// Print the pools once and exit; the default if standard output is not a terminal.
    #[arg(long)]
    pub(super) once: bool,
    /// Seconds between two updates.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub(super) interval: u16,
}

#[derive(Args)]
pub(super) struct Hash {
    /// Print a complete line of auth_file, for this user.
    #[arg(long, short = 'U')]
    pub(super) user: Option<String>,
    /// Number of iterations.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(super) iterations: u32,
}

fn table_name(text: &str) -> Result<String, String> {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let parts = text.split('.');
    let is_name = |part: &str| part.starts_with(|c: char| !c.is_ascii_digit()) && part.chars().all(is_word);
    match parts.clone().count() <= 2 && parts.clone().all(is_name) {
        true => Ok(text.to_owned()),
        false => Err("it is NAME or SCHEMA.NAME, with lower-case letters, digits and _".to_owned()),
    }
}

fn account(text: &str) -> Result<String, String> {
    let is_account = text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit());
    if is_account { Ok(text.to_owned()) } else { Err("an AWS account has twelve digits".to_owned()) }
}

fn resource_id(text: &str) -> Result<String, String> {
    let is_id = ["db-", "cluster-", "prx-"].iter().any(|prefix| {
        text.strip_prefix(prefix)
            .is_some_and(|id| !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric()))
    });
    if is_id {
        return Ok(text.to_owned());
    }
    Err("it must begin with db-, cluster- or prx- and is not the instance name; `aws rds describe-db-instances \
         --query DBInstances[].DbiResourceId` or `aws rds describe-db-clusters --query DBClusters[].DbClusterResourceId` \
         lists them"
        .to_owned())
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

impl ServerArguments {
    /// Settings from flags, for a start with a file.
    pub(super) fn settings(&self) -> Vec<(String, String)> {
        self.settings.clone()
    }

    /// Flags for a start without a file.
    pub(super) fn zero_config_flags(&self) -> ZeroConfigFlags {
        ZeroConfigFlags {
            user: self.user.clone(),
            database: self.database.clone(),
            port: self.port,
            region: self.region.clone(),
            server_auth: None,
            iam_host: self.iam_host.clone(),
            iam_port: self.iam_port,
            secret_arn: self.secret_arn.clone(),
            aws_profile: self.aws_profile.clone(),
            aws_role_arn: self.aws_role_arn.clone(),
            aws_external_id: self.aws_external_id.clone(),
            aws_role_session_name: self.aws_role_session_name.clone(),
            listen_addr: None,
            listen_port: None,
            settings: self.settings.clone(),
        }
    }
}

impl RunArguments {
    /// Settings given as flags, for a start with a file: there, `user` is the system user, as in PgBouncer.
    pub(super) fn setting_flags(&self) -> Vec<(String, String)> {
        let mut flags = self.server.settings.clone();
        let user = self.system_user.as_ref().or(self.server.user.as_ref());
        flags.extend(user.map(|user| ("user".to_owned(), user.clone())));
        flags.extend(self.listen_addr.clone().map(|value| ("listen_addr".to_owned(), value)));
        flags.extend(self.listen_port.clone().map(|value| ("listen_port".to_owned(), value)));
        flags
    }

    /// Flags for a start without a file.
    pub(super) fn zero_config_flags(&self) -> ZeroConfigFlags {
        let mut flags = self.server.zero_config_flags();
        flags.settings.extend(self.system_user.clone().map(|user| ("user".to_owned(), user)));
        ZeroConfigFlags {
            listen_addr: self.listen_addr.clone(),
            listen_port: self.listen_port.clone(),
            ..flags
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_file_an_endpoint_and_a_command_are_distinguished() {
        let parse = |words: &[&str]| Arguments::parse_from(words);
        assert_eq!(parse(&["x", "a.ini"]).run.target.as_deref(), Some("a.ini"));
        assert!(matches!(parse(&["x", "check", "a.ini"]).command, Some(CliCommand::Check { .. })));
        let run = parse(&["x", "db.example", "--user", "u", "--set", "pool_mode = session"]).run;
        assert_eq!(run.server.settings, [("pool_mode".to_owned(), "session".to_owned())]);
    }
}
