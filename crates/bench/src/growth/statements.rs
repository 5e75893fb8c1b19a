//! Prepared statements: clients that have prepared many, each with a text of its own, in transaction pooling. Owns these
//! clients and the texts; never runs one of the statements.

use std::thread;

use anyhow::{Context, Result};

use super::GrowthRun;
use super::bouncer::GrowthBouncer;
use super::config::GrowthIni;
use super::delays::{self, DelayAction};
use super::idle_clients;
use super::levels::{self, CpuLoad, LevelRow, cpu_costs, median_ratio};
use super::plain_client::PlainClient;
use crate::entrants::Entrant;
use crate::summary::Summary;

/// Clients that prepare the statements, at most.
pub(super) const OWNERS: u32 = 16;
/// Statements sent in a row.
const BATCH: usize = 100;

/// A pooler whose clients have prepared statements.
struct PreparedLevel {
    bouncer: GrowthBouncer,
    _owners: Vec<PlainClient>,
    count: u32,
    each_kib: Option<f64>,
}

/// Measures all poolers at all sizes.
pub(super) fn measure(run: &GrowthRun<'_>, counts: &[u32]) -> Result<Vec<LevelRow>> {
    let mut rows = Vec::new();
    for entrant in run.entrants() {
        let counts = run.counts(entrant, counts);
        let prepared = counts.iter().map(|&count| prepare(run, entrant, count));
        let prepared = prepared.collect::<Result<Vec<_>>>()?;
        let poolers: Vec<_> = prepared.iter().map(|one| &one.bouncer).collect();
        // A simple query is never looked up among the statements.
        let load = CpuLoad::of_active("prepared", &run.settings);
        let costs = cpu_costs(run.test_bed, &poolers, load)?;
        for (one, of_one) in prepared.iter().zip(&costs) {
            rows.push(LevelRow {
                pooler: one.bouncer.name,
                count: one.count,
                each_kib: one.each_kib,
                cpu_us: Summary::of(of_one.clone()),
                cpu_ratio: median_ratio(of_one, &costs[0]),
                delays: delays::measure(&one.bouncer, &[DelayAction::Scrape], run.settings.delay_rounds)?,
                ..LevelRow::default()
            });
        }
    }
    Ok(rows)
}

fn prepare(run: &GrowthRun<'_>, entrant: &Entrant, count: u32) -> Result<PreparedLevel> {
    eprintln!("  {}: {count}", entrant.contender.name());
    let bouncer = GrowthBouncer::start(run.test_bed, entrant, GrowthIni::SMALLEST)?;
    let mut owners = idle_clients::open(&bouncer, OWNERS.min(count))?;
    thread::sleep(run.settings.settle);
    let before_kib = bouncer.pss_kib()?;
    let share = count as usize / owners.len();
    for (index, owner) in owners.iter_mut().enumerate() {
        let statements: Vec<_> = (index * share..(index + 1) * share).map(statement).collect();
        let mut batches = statements.chunks(BATCH);
        batches
            .try_for_each(|batch| owner.prepare(batch))
            .with_context(|| format!("{}: {count} statements", bouncer.name))?;
    }
    thread::sleep(run.settings.settle);
    // One statement alone has the one-time costs of the first.
    let each_kib = levels::kib_each(before_kib, bouncer.pss_kib()?, count).filter(|_| count > 1);
    Ok(PreparedLevel { bouncer, _owners: owners, count, each_kib })
}

/// Name and text of a statement.
fn statement(number: usize) -> (String, String) {
    let sql = format!(
        "SELECT aid, bid, abalance, filler FROM pgbench_accounts WHERE aid = $1 AND abalance <> {number}"
    );
    (format!("s{number}"), sql)
}

/// Length of the longest text, for the page.
pub(super) fn text_bytes(count: u32) -> usize {
    statement(count.saturating_sub(1) as usize).1.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_statement_has_its_own_name_and_text() {
        let [(name, sql), (other_name, other_sql)] = [statement(1), statement(2)];
        assert_ne!(name, other_name);
        assert_ne!(sql, other_sql);
        assert_eq!(text_bytes(3), other_sql.len());
    }
}
