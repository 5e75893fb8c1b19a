//! Converts samples to the Markdown of `bench/TOKENS.md`. Owns its text and its table; never measures.

use std::fmt::Write as _;

use super::{Case, LIMIT_US, Minter, TokenSample, cell};
use crate::machine::Machine;
use crate::report::{figures, line, quotient};

/// The inputs of the page.
pub(super) struct TokensPage<'a> {
    /// The environment of the run.
    pub(super) machine: &'a Machine,
    /// The command that repeats the run.
    pub(super) command: &'a str,
    /// The columns, rds-iam first.
    pub(super) minters: &'a [Box<dyn Minter>],
    /// The measured figures.
    pub(super) samples: &'a [TokenSample],
    /// Number of rounds.
    pub(super) rounds: u32,
    /// Number of tokens per round and case.
    pub(super) batch: u32,
}

impl TokensPage<'_> {
    /// The whole page.
    pub(super) fn text(&self) -> String {
        let mut page = String::from(HEAD);
        self.machine.write(&mut page, self.command);
        page.push_str("## One token, µs (less is better)\n\n");
        self.table(&mut page);
        let Self { rounds, batch, .. } = self;
        let _ = writeln!(
            page,
            "\n`{}` fails if a median of rds-iam is not below {LIMIT_US} µs.\n\n\
             ## How it is measured\n\n\
             - Rounds in turns: {rounds}, after one that is discarded. In each, every signer mints {batch} tokens in a row for\n  \
               every line of the table, in one thread.\n{METHOD}",
            self.command,
        );
        page.trim_end().to_owned() + "\n"
    }

    /// A column for each minter, followed by the ratios to rds-iam.
    fn table(&self, page: &mut String) {
        let names = self.minters.iter().map(|minter| minter.name().to_owned());
        let others = self.minters.iter().skip(1);
        let ratios = others.map(|minter| format!("{} / rds-iam", minter.name()));
        line(page, "", names.chain(ratios));
        let columns = self.minters.len();
        let _ = writeln!(page, "|---|{}", "---:|".repeat(columns + columns.saturating_sub(1)));
        for case in Case::ALL {
            let of = |column| cell(self.samples, case, column);
            let cells = (0..columns).map(|column| figures(of(column)));
            let ratios = (1..columns).map(|column| quotient(of(column), of(0)));
            line(page, case.title(), cells.chain(ratios));
        }
    }
}

const HEAD: &str = "# Tokens\n\n<!-- Written by `make bench-tokens`. Do not edit. -->\n\n\
    The cost of an RDS token with credentials that are available: rds-iam, boto3 and `@aws-sdk/rds-signer` with\n\
    the same keys, on the same machine, in the same run. Each cell is the median of the rounds, with the smallest and\n\
    largest in brackets. The last columns are medians divided by those of rds-iam.\n\n";

const METHOD: &str = "\
    - Each measures with its own clock, from its first to its last token. One-time costs are not included:\n  \
      the client of boto3, the signer of JavaScript, the engine. No credentials are fetched.\n\
    - Signing is `rds_iam::sign`, `generate_db_auth_token` and `getAuthToken`. The engine is `TokenEngine::token` when\n  \
      it has a token that is not due for renewal; the others do not cache tokens.\n\
    - The last token of every batch is checked by the simulator's verifier (`rds_sim::verify`), which shares no\n  \
      code with any signer. The run fails if it refuses one.\n";
