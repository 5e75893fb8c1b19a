//! `iambouncer status`: what a running pooler is doing, as a table or as JSON. Owns both layouts; the values are those of
//! the console.

use super::arguments::Status;
use super::console_client::{ConsoleClient, ConsoleTable};
use super::{Failure, control};
use crate::printable;
use crate::sql_client::TextRow;
use serde::Serialize;

/// Titles of the table of pools.
const TITLES: [&str; 8] = [
    "database",
    "user",
    "pool mode",
    "active clients",
    "waiting clients",
    "active servers",
    "idle servers",
    "longest wait",
];
/// Titles with this index and below are left-aligned.
const LAST_TEXT: usize = 2;

/// The object that `--json` prints.
#[derive(Debug, Serialize)]
struct PoolerStatus {
    version: String,
    state: String,
    ready: bool,
    uptime_seconds: u64,
    pid: u32,
    pools: Vec<PoolStatus>,
}

/// A pool in it.
#[derive(Debug, Serialize)]
struct PoolStatus {
    database: String,
    user: String,
    pool_mode: String,
    clients_active: u64,
    clients_waiting: u64,
    servers_active: u64,
    servers_idle: u64,
    max_wait_seconds: f64,
}

pub(super) fn print(options: &Status) -> Result<(), Failure> {
    let status = control::connect(&options.console).and_then(|mut client| read(&mut client));
    let status = status.map_err(Failure::Start)?;
    let text = if options.json {
        let text = serde_json::to_string_pretty(&status).map_err(|error| Failure::Start(error.into()))?;
        format!("{text}\n")
    } else {
        format!("{}\n", printable::lines(&table(&status)))
    };
    super::print(text.as_bytes())
}

fn read(client: &mut ConsoleClient) -> anyhow::Result<PoolerStatus> {
    let process = client.run("SHOW STATUS")?;
    let pools = client.run("SHOW POOLS")?.without_console();
    Ok(PoolerStatus {
        version: process.of_key("version").to_owned(),
        state: process.of_key("state").to_owned(),
        ready: process.of_key("ready") == "yes",
        uptime_seconds: process.of_key("uptime_seconds").parse()?,
        pid: process.of_key("pid").parse()?,
        pools: pools_of(&pools),
    })
}

fn pools_of(pools: &ConsoleTable) -> Vec<PoolStatus> {
    let pool = |row: &TextRow| {
        let number = |column: &str| pools.value(row, column).parse::<u64>().unwrap_or(0);
        PoolStatus {
            database: pools.value(row, "database").to_owned(),
            user: pools.value(row, "user").to_owned(),
            pool_mode: pools.value(row, "pool_mode").to_owned(),
            clients_active: number("cl_active"),
            clients_waiting: number("cl_waiting"),
            servers_active: number("sv_active"),
            servers_idle: number("sv_idle"),
            max_wait_seconds: number("maxwait") as f64 + number("maxwait_us") as f64 / 1e6,
        }
    };
    pools.rows.iter().map(pool).collect()
}

fn table(status: &PoolerStatus) -> String {
    let ready = if status.ready { "ready" } else { "not ready" };
    let mut lines = vec![
        status.version.clone(),
        format!("{}, {ready}, up for {} s, process {}", status.state, status.uptime_seconds, status.pid),
    ];
    if !status.pools.is_empty() {
        let titles = TITLES.iter().map(|title| (*title).to_owned());
        let mut rows: Vec<Vec<String>> = vec![titles.collect()];
        rows.extend(status.pools.iter().map(|pool| {
            vec![
                pool.database.clone(),
                pool.user.clone(),
                pool.pool_mode.clone(),
                pool.clients_active.to_string(),
                pool.clients_waiting.to_string(),
                pool.servers_active.to_string(),
                pool.servers_idle.to_string(),
                format!("{:.3} s", pool.max_wait_seconds),
            ]
        }));
        lines.push(String::new());
        lines.extend(aligned(&rows));
    }
    lines.join("\n")
}

/// Rows with columns of equal width.
fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let width = |at: usize| {
        rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let line = |row: &Vec<String>| {
        let cells = row.iter().enumerate().map(|(at, cell)| match at {
            0..=LAST_TEXT => format!("{cell:<0$}", width(at)),
            _ => format!("{cell:>0$}", width(at)),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}
