//! Databases and users: poolers whose databases, or users, have each been used once. Owns the order of preparation and
//! measurements; never keeps a pooler after it.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::GrowthRun;
use super::bouncer::GrowthBouncer;
use super::config::{self, GrowthIni};
use super::delays::{self, DelayAction};
use super::levels::{self, CpuLoad, LevelRow, cpu_costs, idle_percents, median_ratio};
use super::plain_client::PlainClient;
use crate::entrants::Entrant;
use crate::summary::Summary;
use crate::test_bed::{DATABASE, USER};

/// Number of logins at the same time.
const LANES: u32 = 8;
/// Time limit until all servers are closed.
const CLOSE_LIMIT: Duration = Duration::from_secs(60);
/// Users that log in; the others are only in the file.
pub(super) const MOST_POOLS: u32 = 10_000;
/// While pools are made: each server is closed after its first use, so that PostgreSQL does not have thousands.
const CLOSE_SERVERS: [&str; 2] = ["SET server_lifetime = 0", "SET server_idle_timeout = 1"];
/// The defaults again.
const KEEP_SERVERS: [&str; 2] = ["SET server_lifetime = 3600", "SET server_idle_timeout = 600"];
/// What is run while another client queries.
const ACTIONS: [DelayAction; 3] = [DelayAction::ShowPools, DelayAction::Scrape, DelayAction::Reload];

/// What there are many of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TenantKind {
    /// Databases, all with the same user.
    Databases,
    /// Users of one database, each with its own logins to PostgreSQL.
    Users,
}

impl TenantKind {
    fn ini(self, count: u32) -> GrowthIni {
        match self {
            Self::Databases => GrowthIni { databases: count, ..GrowthIni::SMALLEST },
            Self::Users => GrowthIni { users: count, shares_login: false, ..GrowthIni::SMALLEST },
        }
    }

    /// User and database of a login.
    fn names(self, number: u32) -> (String, String) {
        match self {
            Self::Databases => (USER.to_owned(), config::database(number)),
            Self::Users => (config::user(number), DATABASE.to_owned()),
        }
    }
}

/// A pooler with all its pools, and the memory that it had before.
struct Tenants {
    bouncer: GrowthBouncer,
    count: u32,
    /// Without pools.
    start_kib: u64,
    /// Pools except the first.
    pools: u32,
}

/// Measures all poolers at all sizes.
pub(super) fn measure(run: &GrowthRun<'_>, kind: TenantKind, counts: &[u32]) -> Result<Vec<LevelRow>> {
    if kind == TenantKind::Users {
        create_roles(run, counts)?;
    }
    let mut rows = Vec::new();
    let mut prepared = Vec::new();
    for entrant in run.entrants() {
        for count in run.counts(entrant, counts) {
            prepared.push(prepare(run, entrant, kind, count)?);
        }
    }
    thread::sleep(run.settings.settle);
    let all: Vec<_> = prepared.iter().map(|one| &one.bouncer).collect();
    let idle = idle_percents(&all, run.settings.idle)?;
    for (one, percent) in prepared.iter().zip(idle) {
        let base = prepared.iter().find(|other| other.bouncer.name == one.bouncer.name);
        let base_kib = base.map_or(one.start_kib, |base| base.start_kib);
        rows.push(LevelRow {
            pooler: one.bouncer.name,
            count: one.count,
            idle_percent: Some(percent),
            entry_kib: levels::kib_each(base_kib, one.start_kib, one.count - 1),
            each_kib: levels::kib_each(one.start_kib, one.bouncer.pss_kib()?, one.pools),
            ..LevelRow::default()
        });
    }
    for group in prepared.chunk_by(|a, b| a.bouncer.name == b.bouncer.name) {
        let of_group =
            rows.iter_mut().filter(|row| Some(row.pooler) == group.first().map(|one| one.bouncer.name));
        query(run, group, of_group)?;
    }
    Ok(rows)
}

/// CPU time per query and delays of the poolers of one program, the smallest first.
fn query<'a>(
    run: &GrowthRun<'_>,
    group: &[Tenants],
    rows: impl Iterator<Item = &'a mut LevelRow>,
) -> Result<()> {
    let poolers: Vec<_> = group.iter().map(|one| &one.bouncer).collect();
    let load = CpuLoad::of_active("simple", &run.settings);
    let costs = cpu_costs(run.test_bed, &poolers, load)?;
    for (index, row) in rows.enumerate() {
        row.cpu_us = Summary::of(costs[index].clone());
        row.cpu_ratio = median_ratio(&costs[index], &costs[0]);
        row.delays = delays::measure(poolers[index], &ACTIONS, run.settings.delay_rounds)?;
    }
    Ok(())
}

/// Starts a pooler, uses each database or user once, and waits until all servers are closed.
fn prepare(run: &GrowthRun<'_>, entrant: &Entrant, kind: TenantKind, count: u32) -> Result<Tenants> {
    eprintln!("  {}: {count}", entrant.contender.name());
    let bouncer = GrowthBouncer::start(run.test_bed, entrant, kind.ini(count))?;
    let mut console = bouncer.console()?;
    set(&mut console, &CLOSE_SERVERS)?;
    let start_kib = bouncer.pss_kib()?;
    let used = count.min(MOST_POOLS);
    use_each(bouncer.port, kind, used).with_context(|| format!("{}: making {used} pools", bouncer.name))?;
    bouncer.wait_without_servers(CLOSE_LIMIT)?;
    set(&mut console, &KEEP_SERVERS)?;
    Ok(Tenants { bouncer, count, start_kib, pools: used - 1 })
}

fn set(console: &mut PlainClient, commands: &[&str]) -> Result<()> {
    commands.iter().try_for_each(|command| console.query(command).map(drop))
}

/// One login and one query for each number below `count`.
fn use_each(port: u16, kind: TenantKind, count: u32) -> Result<()> {
    let lane = |first: u32| {
        (first..count).step_by(LANES as usize).try_for_each(|number| {
            let (user, database) = kind.names(number);
            PlainClient::login(port, &user, &database)?.query("SELECT 1").map(drop)
        })
    };
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|first| scope.spawn(move || lane(first))).collect();
        lanes.into_iter().try_for_each(|lane| lane.join().map_err(|_| anyhow!("a login has panicked"))?)
    })
}

/// Creates the roles of all users that log in. Their logins are their own, so PostgreSQL must know them.
fn create_roles(run: &GrowthRun<'_>, counts: &[u32]) -> Result<()> {
    let most = counts.iter().copied().max().unwrap_or(1).min(MOST_POOLS);
    let mut superuser = PlainClient::login(run.test_bed.postgres_port(), SUPERUSER, SUPERUSER)?;
    let block = format!(
        "DO $$ BEGIN FOR n IN 1..{} LOOP EXECUTE 'CREATE ROLE u' || n || ' LOGIN IN ROLE {USER}'; END LOOP; END $$",
        most - 1
    );
    superuser.query(&block).map(drop)
}

/// The superuser of the private PostgreSQL, and its database.
const SUPERUSER: &str = "postgres";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_login_has_a_pool_of_its_own() {
        let names =
            |kind: TenantKind| [kind.names(0), kind.names(7)].map(|(user, name)| format!("{user}@{name}"));
        assert_eq!(names(TenantKind::Databases), ["bench@bench", "bench@d7"]);
        assert_eq!(names(TenantKind::Users), ["bench@bench", "u7@bench"]);
        assert!(!TenantKind::Users.ini(7).shares_login);
    }
}
