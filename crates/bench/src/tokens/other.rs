//! Minters in other languages: a program each, which is started once and asked in turns. Owns the programs, what is
//! said to them, and their end. Their own clocks time the tokens, so that the conversation is in no figure.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, Result};
use rds_sim::AccessKey;

use super::{Batch, Case, HOST, Minter, PORT, REGION, USER};
use crate::process;

const BOTO3: &str = include_str!("boto3.py");
const RDS_SIGNER: &str = include_str!("rds_signer.mjs");
/// How long an answer may take. boto3 reads large files when it makes a client.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A running program. It is killed when dropped, and by the kernel when this process dies any other way.
pub(super) struct Other {
    name: &'static str,
    versions: String,
    child: Child,
    questions: ChildStdin,
    answers: Receiver<String>,
}

impl Other {
    /// boto3, of the Python environment in `drivers`.
    pub(super) fn boto3(drivers: &Path, keys: &[AccessKey; 2]) -> Result<Self> {
        let mut command = process::command(&drivers.join("python/bin/python"));
        command.args(["-I", "-c", BOTO3]);
        Self::start("boto3", command, keys)
    }

    /// `@aws-sdk/rds-signer`, of `drivers/node/node_modules`.
    pub(super) fn rds_signer(drivers: &Path, keys: &[AccessKey; 2]) -> Result<Self> {
        let mut command = process::command(Path::new("node"));
        // A script without a file looks for packages from the working directory.
        command.current_dir(drivers.join("node")).env("NODE_NO_WARNINGS", "1");
        command.args(["--input-type=module", "--eval", RDS_SIGNER]);
        Self::start("@aws-sdk/rds-signer", command, keys)
    }

    fn start(name: &'static str, mut command: Command, keys: &[AccessKey; 2]) -> Result<Self> {
        // Neither settings nor keys of whoever runs this, and nobody asks the metadata service.
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("AWS_") {
                command.env_remove(variable);
            }
        }
        command.env("AWS_CONFIG_FILE", "/dev/null").env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
        command.env("AWS_EC2_METADATA_DISABLED", "true");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = command.spawn();
        let mut child = child.with_context(|| format!("starting {name}; `tools/drivers` installs it"))?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (questions, stdout) = pipes.context("a program without pipes")?;
        let answers = read_lines(stdout);
        let mut other = Self { name, versions: String::new(), child, questions, answers };
        other.versions = other.ask(&format!("target\t{HOST}\t{PORT}\t{USER}\t{REGION}"))?;
        for key in keys {
            let session_token = key.session_token.as_ref().map_or("", |token| token.as_str());
            other.ask(&format!("key\t{}\t{}\t{session_token}", key.access_key_id, key.secret.as_str()))?;
        }
        Ok(other)
    }

    fn ask(&mut self, question: &str) -> Result<String> {
        let name = self.name;
        writeln!(self.questions, "{question}").with_context(|| format!("asking {name}"))?;
        let answer = self.answers.recv_timeout(ANSWER_TIMEOUT);
        answer.with_context(|| format!("{name} gave no answer; `tools/drivers` installs what it needs"))
    }
}

impl Minter for Other {
    fn name(&self) -> &'static str {
        self.name
    }

    fn versions(&self) -> &str {
        &self.versions
    }

    fn mint(&mut self, case: Case, count: u32) -> Result<Option<Batch>> {
        let Some(key) = Case::SIGNED.iter().position(|&signed| signed == case) else { return Ok(None) };
        let answer = self.ask(&format!("mint\t{key}\t{count}"))?;
        let (nanoseconds, token) = answer.split_once('\t').context("an answer without a token")?;
        Ok(Some(Batch { nanoseconds: nanoseconds.parse()?, token: token.to_owned() }))
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _killed = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Lines as they come. The thread ends with the program.
fn read_lines(stdout: ChildStdout) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            let is_heard = line.is_ok_and(|line| sender.send(line).is_ok());
            if !is_heard {
                return;
            }
        }
    });
    lines
}
