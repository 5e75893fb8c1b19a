//! Turns samples into the Markdown of `bench/TOKENS.md`. Owns its words and its table; it measures nothing.

use std::fmt::Write as _;

use super::{Case, LIMIT_US, Minter, TokenSample, cell};
use crate::machine::Machine;
use crate::report::{figures, line, quotient};

/// Everything the page is made of.
pub(super) struct TokensPage<'a> {
    /// Where it was measured.
    pub(super) machine: &'a Machine,
    /// The command that makes it again.
    pub(super) command: &'a str,
    /// The columns, ours first.
    pub(super) minters: &'a [Box<dyn Minter>],
    /// What was measured.
    pub(super) samples: &'a [TokenSample],
    /// How many rounds.
    pub(super) rounds: u32,
    /// How many tokens in each.
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
            "\n`{}` fails if a median of ours is not below {LIMIT_US} µs.\n\n\
             ## How it is measured\n\n\
             - Rounds in turns: {rounds}, after one that is thrown away. In each, everybody mints {batch} tokens in a row for\n  \
               every line of the table, in one thread.\n{METHOD}",
            self.command,
        );
        page.trim_end().to_owned() + "\n"
    }

    /// A column for each minter, and then how many times ours the others take.
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
    What it takes to mint an RDS token from credentials that are at hand: rds-iam, boto3 and `@aws-sdk/rds-signer` with\n\
    the same keys, on the same machine, in the same run. Each cell is the median of the rounds, with the smallest and\n\
    largest in brackets. The last columns are medians over rds-iam's.\n\n";

const METHOD: &str = "\
    - Each times itself with its own clock, between its first and its last token. What is made once is in no figure:\n  \
      the client of boto3, the signer of JavaScript, the engine. Nobody fetches credentials.\n\
    - Signing is `rds_iam::sign`, `generate_db_auth_token` and `getAuthToken`. The engine is `TokenEngine::token` when\n  \
      it has a token that is not due; the others keep none.\n\
    - The last token of every batch is checked by the verifier of the look-alike (`rds_sim::verify`), which shares no\n  \
      code with any signer. One that it refuses ends the run.\n";
