//! `make bench-tokens`: compares the cost of a token with boto3 and `@aws-sdk/rds-signer`, and writes
//! `bench/TOKENS.md`.
//!
//! Owns what is signed, the order of the rounds and the limit. Never trusts a signer: a token of every batch
//! is checked by the simulator's verifier, which shares no code with any of them.

mod external_minter;
mod page;
mod rds_iam_minter;

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use rds_sim::{AccessKey, KeyStore, TokenTarget, verify};

use crate::args::Args;
use crate::machine::{self, Machine};
use crate::page_file;
use crate::summary::Summary;

/// Time limit for a token of rds-iam, in microseconds, whatever the source of its credentials.
const LIMIT_US: f64 = 50.0;
/// Number of tokens signed in a row.
const BATCH: u32 = 1000;
/// The same for a short run.
const QUICK_BATCH: u32 = 20;
/// Default number of rounds.
const ROUNDS: u32 = 15;
/// A typical endpoint name.
const HOST: &str = "orders.cluster-c9akciq32rgh.eu-central-1.rds.amazonaws.com";
const PORT: u16 = 5432;
const USER: &str = "app";
const REGION: &str = "eu-central-1";
/// A long one: those of STS have several hundred to several thousand bytes.
const SESSION_TOKEN_BYTES: usize = 4096;
/// Lifetime of the temporary key; longer than any run.
const KEY_LIFE: Duration = Duration::from_secs(12 * 3600);

/// How a token is obtained: a row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    /// Signed with a key without a session token.
    Static,
    /// Signed with a temporary key, whose session token is part of the signed text.
    Temporary,
    /// Returned from the cache of an engine.
    Cached,
}

impl Case {
    const ALL: [Self; 3] = [Self::Static, Self::Temporary, Self::Cached];

    /// The cases that sign each token, in the order of the keys.
    const SIGNED: [Self; 2] = [Self::Static, Self::Temporary];

    const fn title(self) -> &'static str {
        match self {
            Self::Static => "signed, key without session token",
            Self::Temporary => "signed, session token of 4096 bytes",
            Self::Cached => "the engine has one cached",
        }
    }
}

/// Tokens obtained in a row.
struct Batch {
    /// Total time, in nanoseconds.
    nanoseconds: u64,
    /// The last token.
    token: String,
}

/// Produces tokens: a column of the table.
trait Minter {
    /// Its name in the table.
    fn name(&self) -> &'static str;

    /// The versions of its components.
    fn versions(&self) -> &str;

    /// Obtains `count` tokens; `None` for a case that it does not support.
    fn mint(&mut self, case: Case, count: u32) -> Result<Option<Batch>>;
}

/// A figure of one batch.
struct TokenSample {
    case: Case,
    column: usize,
    /// Microseconds per token.
    us: f64,
}

/// Runs the whole comparison.
///
/// # Errors
/// A minter fails, a token is refused by the verifier, or rds-iam exceeds the limit.
pub(crate) fn run(args: &Args, bench_dir: &Path) -> Result<()> {
    let load_before = machine::load_average();
    let keys = KeyStore::default();
    let temporary = keys.issue(SystemTime::now(), KEY_LIFE, SESSION_TOKEN_BYTES);
    let fixed =
        AccessKey::parse("AKIDBENCH:a/secret+of-the-benchmark").context("parsing the benchmark's key")?;
    keys.add(fixed.clone());
    let pair = [fixed, temporary];

    let drivers = args.drivers()?;
    let mut minters: Vec<Box<dyn Minter>> = vec![
        Box::new(rds_iam_minter::RdsIamMinter::new(&pair)?),
        Box::new(external_minter::ExternalMinter::boto3(&drivers, &pair)?),
        Box::new(external_minter::ExternalMinter::rds_signer(&drivers, &pair)?),
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
    check_limit(&samples)
}

/// Writes the page: of a full run to the file under version control, of a short one next to the raw figures.
fn write(args: &Args, bench_dir: &Path, text: &str) -> Result<()> {
    let (dir, name) =
        if args.quick { (bench_dir.join("raw"), "tokens.md") } else { (bench_dir.to_owned(), "TOKENS.md") };
    page_file::write(&dir, name, text)
}

/// Runs all minters and cases in turns. The first round is a warm-up and is discarded.
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
                // The error contains the reason, never the token: `Refusal` quotes only values that are not
                // secret.
                verify(&token, USER, &target, keys, SystemTime::now())
                    .with_context(|| format!("the token of {} was refused", minter.name()))?;
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

/// Checks that rds-iam, the first column, is within the limit.
fn check_limit(samples: &[TokenSample]) -> Result<()> {
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
    fn the_limit_applies_to_every_case() {
        check_limit(&samples([49.9, 1.0, 1.0])).unwrap();
        for us in [[50.0, 1.0, 1.0], [1.0, 70.0, 1.0], [1.0, 1.0, 70.0]] {
            let complaint = check_limit(&samples(us)).unwrap_err().to_string();
            assert!(complaint.contains("0.0 µs"), "{complaint}");
        }
        assert!(check_limit(&samples([1.0; 3])[..2]).is_err());
    }

    #[test]
    fn the_limit_does_not_apply_to_other_minters() {
        let mut samples = samples([1.0; 3]);
        samples.push(TokenSample { case: Case::Static, column: 1, us: 400.0 });
        check_limit(&samples).unwrap();
        assert_eq!(cell(&samples, Case::Static, 1).map(|summary| summary.median), Some(400.0));
        assert_eq!(cell(&samples, Case::Cached, 1), None);
    }

    #[test]
    fn titles_contain_the_length_of_the_session_token() {
        assert!(Case::Temporary.title().contains(&SESSION_TOKEN_BYTES.to_string()));
    }

    #[test]
    fn tokens_of_rds_iam_are_accepted_by_the_verifier() {
        let keys = KeyStore::default();
        let temporary = keys.issue(SystemTime::now(), KEY_LIFE, SESSION_TOKEN_BYTES);
        let fixed = AccessKey::parse("AK:secret").unwrap();
        keys.add(fixed.clone());
        let mut minters: Vec<Box<dyn Minter>> =
            vec![Box::new(rds_iam_minter::RdsIamMinter::new(&[fixed, temporary]).unwrap())];
        assert_eq!(measure(&mut minters, &keys, 1, 2).unwrap().len(), Case::ALL.len());
        keys.revoke("AK");
        assert!(measure(&mut minters, &keys, 1, 2).is_err());
    }
}
