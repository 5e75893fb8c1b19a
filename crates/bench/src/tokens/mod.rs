//! `make bench-tokens`: what a token costs, next to boto3 and `@aws-sdk/rds-signer`, written into `bench/TOKENS.md`.
//!
//! Owns what is signed, the order of the rounds and the limit. It never believes a signer: a token of every batch
//! goes through the verifier of the look-alike, which shares no code with any of them.

mod other;
mod ours;
mod page;

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use rds_sim::{AccessKey, KeyStore, TokenTarget, verify};

use crate::args::Args;
use crate::machine::{self, Machine};
use crate::summary::Summary;

/// What a token of ours may take, in microseconds, whoever its credentials are from.
const LIMIT_US: f64 = 50.0;
/// How many tokens are minted in a row.
const BATCH: u32 = 1000;
/// How many in a short run.
const QUICK_BATCH: u32 = 20;
/// How many rounds, unless told otherwise.
const ROUNDS: u32 = 15;
/// As an endpoint's name is.
const HOST: &str = "orders.cluster-c9akciq32rgh.eu-central-1.rds.amazonaws.com";
const PORT: u16 = 5432;
const USER: &str = "app";
const REGION: &str = "eu-central-1";
/// A long one: those of STS have some hundred to some thousand bytes.
const SESSION_TOKEN_BYTES: usize = 4096;
/// How long the temporary key lasts: longer than any run.
const KEY_LIFE: Duration = Duration::from_secs(12 * 3600);

/// What is minted: a row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    /// Signed with a key that has no session token.
    Static,
    /// Signed with a temporary key, whose session token is part of what is signed.
    Temporary,
    /// Asked of an engine that has one.
    AtHand,
}

impl Case {
    const ALL: [Self; 3] = [Self::Static, Self::Temporary, Self::AtHand];

    /// The cases that are signed anew, in the order of the keys.
    const SIGNED: [Self; 2] = [Self::Static, Self::Temporary];

    const fn title(self) -> &'static str {
        match self {
            Self::Static => "signed, key without session token",
            Self::Temporary => "signed, session token of 4096 bytes",
            Self::AtHand => "the engine has one at hand",
        }
    }
}

/// Tokens minted in a row.
struct Batch {
    /// How long all of them took, in nanoseconds.
    nanoseconds: u64,
    /// The last one.
    token: String,
}

/// Mints tokens: a column of the table.
trait Minter {
    /// Its name in the table.
    fn name(&self) -> &'static str;

    /// Which versions it is made of.
    fn versions(&self) -> &str;

    /// Mints `count` tokens; `None` for a case that it has not.
    fn mint(&mut self, case: Case, count: u32) -> Result<Option<Batch>>;
}

/// A figure.
struct TokenSample {
    case: Case,
    column: usize,
    /// Microseconds for one token.
    us: f64,
}

/// Runs all of it.
///
/// # Errors
/// A minter fails, mints what the verifier refuses, or ours takes longer than the limit.
pub(crate) fn run(args: &Args, bench_dir: &Path) -> Result<()> {
    let load_before = machine::load_average();
    let keys = KeyStore::default();
    let temporary = keys.issue(SystemTime::now(), KEY_LIFE, SESSION_TOKEN_BYTES);
    let fixed = AccessKey::parse("AKIDBENCH:a/secret+of-the-benchmark").context("a key of none")?;
    keys.add(fixed.clone());
    let pair = [fixed, temporary];

    let drivers = args.drivers()?;
    let mut minters: Vec<Box<dyn Minter>> = vec![
        Box::new(ours::Ours::new(&pair)?),
        Box::new(other::Other::boto3(&drivers, &pair)?),
        Box::new(other::Other::rds_signer(&drivers, &pair)?),
    ];
    let (rounds, batch) = if args.quick { (1, QUICK_BATCH) } else { (args.rounds.unwrap_or(ROUNDS), BATCH) };
    let samples = measure(&mut minters, &keys, rounds, batch)?;

    let facts = minters.iter().map(|minter| (minter.name(), minter.versions().to_owned()));
    let text = page::TokensPage {
        machine: &Machine::here(load_before, facts),
        command: &args.tokens_command_line(),
        minters: &minters,
        samples: &samples,
        rounds,
        batch,
    }
    .text();
    write(args, bench_dir, &text)?;
    hold(&samples)
}

/// Writes the page: a full run's where it is under version control, a short one's beside the raw figures.
fn write(args: &Args, bench_dir: &Path, text: &str) -> Result<()> {
    let (dir, name) =
        if args.quick { (bench_dir.join("raw"), "tokens.md") } else { (bench_dir.to_owned(), "TOKENS.md") };
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    println!("{text}");
    let file = dir.join(name);
    fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    eprintln!("written to {}", fs::canonicalize(&file)?.display());
    Ok(())
}

/// All minters and cases in turns. The first round is thrown away: it warms up.
fn measure(
    minters: &mut [Box<dyn Minter>],
    keys: &KeyStore,
    rounds: u32,
    batch: u32,
) -> Result<Vec<TokenSample>> {
    let target = TokenTarget { hosts: vec![HOST.to_owned()], port: PORT, region: REGION.to_owned() };
    let mut samples = Vec::new();
    for round in 0..=rounds {
        for case in Case::ALL {
            for (column, minter) in minters.iter_mut().enumerate() {
                let minted = minter.mint(case, batch);
                let minted = minted.with_context(|| format!("{}, {}", minter.name(), case.title()))?;
                let Some(Batch { nanoseconds, token }) = minted else { continue };
                // The refusal, never the token: `Refusal` quotes only what is no secret.
                verify(&token, USER, &target, keys, SystemTime::now())
                    .with_context(|| format!("the token of {} is refused", minter.name()))?;
                if round > 0 {
                    let us = nanoseconds as f64 / 1000.0 / f64::from(batch);
                    samples.push(TokenSample { case, column, us });
                }
            }
        }
        eprintln!("round {round} of {rounds}");
    }
    Ok(samples)
}

/// The figures of one cell.
fn cell(samples: &[TokenSample], case: Case, column: usize) -> Option<Summary> {
    let of_cell = samples.iter().filter(|sample| sample.case == case && sample.column == column);
    Summary::of(of_cell.map(|sample| sample.us).collect())
}

/// Whether ours, the first column, keeps to the limit.
fn hold(samples: &[TokenSample]) -> Result<()> {
    let mut complaints = Vec::new();
    for case in Case::ALL {
        match cell(samples, case, 0) {
            Some(summary) if summary.median < LIMIT_US => {}
            Some(summary) => complaints.push(format!("{}: {:.1} µs", case.title(), summary.median)),
            None => complaints.push(format!("{}: no figure", case.title())),
        }
    }
    if complaints.is_empty() {
        return Ok(());
    }
    bail!("a token should take less than {LIMIT_US} µs: {}", complaints.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(us: [f64; 3]) -> Vec<TokenSample> {
        Case::ALL.into_iter().zip(us).map(|(case, us)| TokenSample { case, column: 0, us }).collect()
    }

    #[test]
    fn the_limit_is_for_every_case() {
        hold(&samples([49.9, 1.0, 1.0])).unwrap();
        for us in [[50.0, 1.0, 1.0], [1.0, 70.0, 1.0], [1.0, 1.0, 70.0]] {
            let complaint = hold(&samples(us)).unwrap_err().to_string();
            assert!(complaint.contains("0.0 µs"), "{complaint}");
        }
        assert!(hold(&samples([1.0; 3])[..2]).is_err());
    }

    #[test]
    fn what_others_take_is_no_complaint() {
        let mut samples = samples([1.0; 3]);
        samples.push(TokenSample { case: Case::Static, column: 1, us: 400.0 });
        hold(&samples).unwrap();
        assert_eq!(cell(&samples, Case::Static, 1).map(|summary| summary.median), Some(400.0));
        assert_eq!(cell(&samples, Case::AtHand, 1), None);
    }

    #[test]
    fn titles_tell_the_length_of_the_session_token() {
        assert!(Case::Temporary.title().contains(&SESSION_TOKEN_BYTES.to_string()));
    }

    #[test]
    fn ours_mint_what_the_verifier_takes() {
        let keys = KeyStore::default();
        let temporary = keys.issue(SystemTime::now(), KEY_LIFE, SESSION_TOKEN_BYTES);
        let fixed = AccessKey::parse("AK:secret").unwrap();
        keys.add(fixed.clone());
        let mut minters: Vec<Box<dyn Minter>> = vec![Box::new(ours::Ours::new(&[fixed, temporary]).unwrap())];
        assert_eq!(measure(&mut minters, &keys, 1, 2).unwrap().len(), Case::ALL.len());
        keys.revoke("AK");
        assert!(measure(&mut minters, &keys, 1, 2).is_err());
    }
}
