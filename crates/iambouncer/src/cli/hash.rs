//! `iambouncer hash`: computes the SCRAM secret of a password read from standard input. Owns the prompt; the password
//! is never an argument, where `ps` would show it.

use super::Failure;
use super::arguments::Hash;
use crate::auth::scram::keys::SaltedPassword;
use anyhow::{Context as _, anyhow};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use std::io::{BufRead as _, IsTerminal as _, stdin};
use zeroize::Zeroizing;

/// Bytes of the salt.
const SALT_BYTES: usize = 16;

pub(super) fn print(options: &Hash) -> Result<(), Failure> {
    let secret = secret(options.iterations).map_err(Failure::Start)?;
    let text = match &options.user {
        None => format!("{}\n", *secret),
        Some(user) => format!("\"{}\" \"{}\"\n", user.replace('"', "\"\""), *secret),
    };
    super::print(text.as_bytes())
}

fn secret(iterations: u32) -> anyhow::Result<Zeroizing<String>> {
    let password = read_password()?;
    let mut salt = [0; SALT_BYTES];
    aws_lc_rs::rand::fill(&mut salt).map_err(|_| anyhow!("could not generate random numbers"))?;
    let salted = SaltedPassword::derive(&password, &salt, iterations)?;
    Ok(salted.secret(&salt, iterations).stored_text())
}

fn read_password() -> anyhow::Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(String::new());
    let terminal = stdin();
    if terminal.is_terminal() {
        super::prompt("Password: ");
        let visible = tcgetattr(&terminal)?;
        let mut hidden = visible.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&terminal, OptionalActions::Now, &hidden)?;
        let read = terminal.lock().read_line(&mut line);
        tcsetattr(&terminal, OptionalActions::Now, &visible)?;
        super::complain("");
        read?;
    } else {
        terminal.lock().read_line(&mut line).context("cannot read the password")?;
    }
    let password = line.trim_end_matches(['\n', '\r']);
    anyhow::ensure!(!password.is_empty(), "the password is empty");
    Ok(Zeroizing::new(password.to_owned()))
}
