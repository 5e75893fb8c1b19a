//! Minters in other languages: one program each, started once and sent requests in turns. Owns the programs,
//! the requests and their shutdown. Each program measures time with its own clock, so that no figure includes
//! the communication.

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
/// Time limit for a response. boto3 reads large files when it creates a client.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A running program. It is killed on drop, and by the kernel if this process ends in any other way.
pub(super) struct ExternalMinter {
    name: &'static str,
    versions: String,
    child: Child,
    requests: ChildStdin,
    responses: Receiver<String>,
}

impl ExternalMinter {
    /// boto3, from the Python environment in `drivers`.
    pub(super) fn boto3(drivers: &Path, keys: &[AccessKey; 2]) -> Result<Self> {
        let mut command = process::command(&drivers.join("python/bin/python"));
        command.args(["-I", "-c", BOTO3]);
        Self::start("boto3", command, keys)
    }

    /// `@aws-sdk/rds-signer`, from `drivers/node/node_modules`.
    pub(super) fn rds_signer(drivers: &Path, keys: &[AccessKey; 2]) -> Result<Self> {
        let mut command = process::command(Path::new("node"));
        // A script without a file searches for packages from the working directory.
        command.current_dir(drivers.join("node")).env("NODE_NO_WARNINGS", "1");
        command.args(["--input-type=module", "--eval", RDS_SIGNER]);
        Self::start("@aws-sdk/rds-signer", command, keys)
    }

    fn start(name: &'static str, mut command: Command, keys: &[AccessKey; 2]) -> Result<Self> {
        // Neither the user's settings and keys nor the metadata service are used.
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
        let (requests, stdout) = pipes.context("the program has no pipes")?;
        let responses = read_lines(stdout);
        let mut minter = Self { name, versions: String::new(), child, requests, responses };
        minter.versions = minter.exchange(&format!("target\t{HOST}\t{PORT}\t{USER}\t{REGION}"))?;
        for key in keys {
            let session_token = key.session_token.as_ref().map_or("", |token| token.as_str());
            minter.exchange(&format!(
                "key\t{}\t{}\t{session_token}",
                key.access_key_id,
                key.secret.as_str()
            ))?;
        }
        Ok(minter)
    }

    fn exchange(&mut self, request: &str) -> Result<String> {
        let name = self.name;
        writeln!(self.requests, "{request}").with_context(|| format!("sending a request to {name}"))?;
        let response = self.responses.recv_timeout(ANSWER_TIMEOUT);
        response.with_context(|| format!("no response from {name}; `tools/drivers` installs what it needs"))
    }
}

impl Minter for ExternalMinter {
    fn name(&self) -> &'static str {
        self.name
    }

    fn versions(&self) -> &str {
        &self.versions
    }

    fn mint(&mut self, case: Case, count: u32) -> Result<Option<Batch>> {
        let Some(key) = Case::SIGNED.iter().position(|&signed| signed == case) else { return Ok(None) };
        let response = self.exchange(&format!("mint\t{key}\t{count}"))?;
        let (nanoseconds, token) = response.split_once('\t').context("a response without a token")?;
        Ok(Some(Batch { nanoseconds: nanoseconds.parse()?, token: token.to_owned() }))
    }
}

impl Drop for ExternalMinter {
    fn drop(&mut self) {
        // Both fail only if it has already exited.
        let _killed = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Lines as they arrive. The thread ends with the program.
fn read_lines(stdout: ChildStdout) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            let is_received = line.is_ok_and(|line| sender.send(line).is_ok());
            if !is_received {
                return;
            }
        }
    });
    lines
}
