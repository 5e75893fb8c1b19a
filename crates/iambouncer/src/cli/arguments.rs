//! Arguments as clap reads them. Owns names and help; decides nothing.

use crate::config::ZeroConfigFlags;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// PostgreSQL connection pooler that logs in to Amazon RDS and Aurora with IAM.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true, after_help = AFTER_HELP)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    #[command(flatten)]
    pub(super) run: Run,
}

const AFTER_HELP: &str = "\
With a file, it is PgBouncer's: [databases], [pgbouncer], [users]. Without one, TARGET or the environment names the \
database: RDS_HOST DB_PORT DB_NAME DB_USERNAME AWS_REGION, or AWS_IAM AWS_RDS_REGION DB_HOST DB_PORT DB_NAME DB_USER. \
Every setting can also be given as IAMBOUNCER_<SETTING>.";

#[derive(Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one of it, once")]
pub(super) enum Command {
    /// Serves clients (the default).
    Run(Run),
    /// Reads a configuration file and says what is wrong with it.
    Check {
        /// The file.
        file: PathBuf,
    },
}

#[derive(Args)]
pub(super) struct Run {
    /// A configuration file, or the endpoint of a database.
    pub(super) target: Option<String>,
    /// User on the server (without a file).
    #[arg(long, short = 'U')]
    user: Option<String>,
    /// Database on the server (without a file).
    #[arg(long, short = 'D')]
    database: Option<String>,
    /// Port of the server (without a file).
    #[arg(long)]
    port: Option<u16>,
    /// Region of the database, where its endpoint does not tell.
    #[arg(long)]
    region: Option<String>,
    /// Endpoint to sign tokens for, where it is not the one to connect to.
    #[arg(long)]
    iam_host: Option<String>,
    /// Port to sign tokens for.
    #[arg(long)]
    iam_port: Option<u16>,
    /// Profile of the shared AWS configuration.
    #[arg(long)]
    aws_profile: Option<String>,
    /// Role to assume.
    #[arg(long)]
    aws_role_arn: Option<String>,
    /// External id that the role's trust policy asks for.
    #[arg(long)]
    aws_external_id: Option<String>,
    /// Session name that CloudTrail shows for the role.
    #[arg(long)]
    aws_role_session_name: Option<String>,
    /// Address to listen on.
    #[arg(long)]
    listen_addr: Option<String>,
    /// Port to listen on.
    #[arg(long, short = 'p')]
    listen_port: Option<u16>,
    /// Any setting, as KEY=VALUE. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    settings: Vec<(String, String)>,
    /// More log lines. May be repeated.
    #[arg(long, short, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
    /// Warnings and errors only.
    #[arg(long, short)]
    pub(super) quiet: bool,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

impl Run {
    /// Settings given as flags, for a start with a file.
    pub(super) fn setting_flags(&self) -> Vec<(String, String)> {
        let mut flags = self.settings.clone();
        flags.extend(self.listen_addr.clone().map(|value| ("listen_addr".to_owned(), value)));
        flags.extend(self.listen_port.map(|value| ("listen_port".to_owned(), value.to_string())));
        flags
    }

    /// The flags of a start without a file.
    pub(super) fn zero_config_flags(&self) -> ZeroConfigFlags {
        ZeroConfigFlags {
            user: self.user.clone(),
            database: self.database.clone(),
            port: self.port,
            region: self.region.clone(),
            server_auth: None,
            iam_host: self.iam_host.clone(),
            iam_port: self.iam_port,
            aws_profile: self.aws_profile.clone(),
            aws_role_arn: self.aws_role_arn.clone(),
            aws_external_id: self.aws_external_id.clone(),
            aws_role_session_name: self.aws_role_session_name.clone(),
            listen_addr: self.listen_addr.clone(),
            listen_port: self.listen_port,
            settings: self.settings.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_file_an_endpoint_and_a_command_are_told_apart() {
        let parse = |words: &[&str]| Arguments::parse_from(words);
        assert_eq!(parse(&["x", "a.ini"]).run.target.as_deref(), Some("a.ini"));
        assert!(matches!(parse(&["x", "check", "a.ini"]).command, Some(Command::Check { .. })));
        let run = parse(&["x", "db.example", "--user", "u", "--set", "pool_mode = session"]).run;
        assert_eq!(run.settings, [("pool_mode".to_owned(), "session".to_owned())]);
    }
}
