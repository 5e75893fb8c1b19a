//! The goals of the page. Owns their limits and which of them are met; never measures.

use super::GrowthResults;
use super::Section;
use super::levels::LevelRow;
use super::page::grouped;
use super::worker_counts::{COMPARED_WITH_TWO, ENGINES, WORKERS, WorkersRow};
use crate::contenders::Contender;
use crate::report::line;

/// CPU time of a pooler without queries, in percent of a core.
const IDLE_PERCENT: f64 = 0.1;
/// The number of pools to which this applies.
const MANY: u32 = 10_000;
/// CPU time per query, as a ratio to one database, user, client or statement.
const CPU_RATIO: f64 = 1.05;
/// CPU time that a worker may take at a time during a command, in ms: its clients wait for that long.
const TURN_MS: f64 = 1.0;
/// CPU time of more workers than cores, as a ratio to 2 workers.
const WORKERS_RATIO: f64 = 1.1;
/// CPU time with `workers = auto`, as a ratio to the better of 1 and 2.
const AUTO_RATIO: f64 = 1.1;

/// A figure and its limit.
#[derive(Debug, Clone, PartialEq)]
struct GrowthGoal {
    what: String,
    most: f64,
    unit: &'static str,
    digits: usize,
    /// The worst figure, and where it was measured.
    worst: Option<(f64, String)>,
}

impl GrowthGoal {
    fn cells(&self) -> [String; 4] {
        let Self { most, unit, digits, .. } = self;
        let limit = format!("{most:.digits$}{unit}");
        let Some((worst, place)) = &self.worst else {
            return [limit, "–".to_owned(), String::new(), "open".to_owned()];
        };
        let scale = 10_f64.powi(i32::try_from(*digits).unwrap_or(0));
        // Compared as the page shows it.
        let is_met = (worst * scale).round() <= (most * scale).round();
        let state = if is_met { "hit" } else { "**miss**" };
        [limit, format!("{worst:.digits$}{unit}"), place.clone(), state.to_owned()]
    }
}

/// The rows of iambouncer in a section.
fn own(section: &Section<LevelRow>) -> Vec<&LevelRow> {
    let rows = section.iter().flatten().flatten();
    rows.filter(|row| row.pooler == Contender::Iambouncer.name()).collect()
}

fn worst(figures: impl Iterator<Item = (f64, String)>) -> Option<(f64, String)> {
    figures.max_by(|(a, _), (b, _)| a.total_cmp(b))
}

/// The goals of all sections that were measured.
fn goals(results: &GrowthResults) -> Vec<GrowthGoal> {
    let GrowthResults { databases, users, clients, statements, workers, .. } = results;
    let mut goals = Vec::new();
    for (name, section) in [("Databases", databases), ("Users", users)] {
        if section.is_some() {
            goals.push(idle(name, &own(section)));
        }
    }
    let named =
        [("Databases", databases), ("Users", users), ("Clients", clients), ("Statements", statements)];
    for (name, section) in named {
        if section.is_some() {
            goals.push(cpu(name, &own(section)));
            goals.extend(delays(name, &own(section)));
        }
    }
    if let Some(workers) = workers {
        let rows: Vec<_> = workers.iter().flatten().collect();
        goals.extend(of_workers(&rows));
    }
    goals
}

fn idle(name: &str, rows: &[&LevelRow]) -> GrowthGoal {
    let many = rows.iter().filter(|row| row.count >= MANY);
    let figures = many.filter_map(|row| Some((row.idle_percent?, grouped(row.count))));
    let what = format!("{name}: CPU time when idle, with {} pools", grouped(MANY));
    GrowthGoal { what, most: IDLE_PERCENT, unit: " %", digits: 2, worst: worst(figures) }
}

fn cpu(name: &str, rows: &[&LevelRow]) -> GrowthGoal {
    let figures = rows.iter().skip(1).filter_map(|row| Some((row.cpu_ratio?, grouped(row.count))));
    let what = format!("{name}: CPU per query, ratio to the smallest");
    GrowthGoal { what, most: CPU_RATIO, unit: "", digits: 2, worst: worst(figures) }
}

/// One goal for each command.
fn delays(name: &str, rows: &[&LevelRow]) -> Vec<GrowthGoal> {
    let actions: Vec<_> =
        rows.first().iter().flat_map(|row| row.delays.iter().map(|one| one.action)).collect();
    let of_action = |action| {
        let all = rows.iter().flat_map(|row| row.delays.iter().map(|one| (row.count, one)));
        let figures = all.filter(|(_, one)| one.action == action);
        worst(figures.filter_map(|(count, one)| Some((one.turn_ms?.median, grouped(count)))))
    };
    let goal = |action: super::delays::DelayAction| GrowthGoal {
        what: format!("{name}: longest turn of a worker during {}", action.title()),
        most: TURN_MS,
        unit: " ms",
        digits: 1,
        worst: of_action(action),
    };
    actions.into_iter().map(goal).collect()
}

fn of_workers(rows: &[&WorkersRow]) -> Vec<GrowthGoal> {
    ENGINES.into_iter().flat_map(|engine| of_engine(rows, engine)).collect()
}

fn of_engine(rows: &[&WorkersRow], engine: &str) -> Vec<GrowthGoal> {
    let goal = |name: String, most: f64, ratio: &dyn Fn(&WorkersRow) -> Option<f64>| {
        let of_engine = rows.iter().filter(|row| row.engine == engine);
        let figures =
            of_engine.filter_map(|row| Some((ratio(row)?, format!("{} clients", grouped(row.clients)))));
        let what = format!("Workers, `io_engine = {engine}`: CPU per transaction, {name}");
        GrowthGoal { what, most, unit: "", digits: 2, worst: worst(figures) }
    };
    let to_two = COMPARED_WITH_TWO.into_iter().map(|column| {
        let name = format!("{} compared with 2", WORKERS[column]);
        goal(name, WORKERS_RATIO, &|row| row.ratio_to_two(column))
    });
    let auto =
        goal("auto compared with the better of 1 and 2".to_owned(), AUTO_RATIO, &WorkersRow::auto_to_best);
    to_two.chain([auto]).collect()
}

/// Writes the section; nothing if no section with goals was measured.
pub(super) fn write(page: &mut String, results: &GrowthResults) {
    let goals = goals(results);
    if goals.is_empty() {
        return;
    }
    page.push_str(HEAD);
    for goal in &goals {
        line(page, &goal.what, goal.cells().into_iter());
    }
    page.push('\n');
}

const HEAD: &str = "## Goals\n\nFor iambouncer. Each line has the worst figure of the tables below, and the number at which it \
    was measured.\n\n| | At most | Worst | At | |\n|---|---:|---:|---:|---|\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn row(count: u32, idle_percent: f64, cpu_ratio: f64) -> LevelRow {
        LevelRow {
            pooler: Contender::Iambouncer.name(),
            count,
            idle_percent: Some(idle_percent),
            cpu_ratio: Some(cpu_ratio),
            ..LevelRow::default()
        }
    }

    #[test]
    fn the_worst_figure_decides() {
        let rows = [row(1, 9.0, 1.0), row(1000, 9.0, 1.2), row(10_000, 0.04, 1.04)];
        let rows: Vec<_> = rows.iter().collect();
        assert_eq!(cpu("Users", &rows).cells(), ["1.05", "1.20", "1,000", "**miss**"]);
        assert_eq!(idle("Users", &rows).cells(), ["0.10 %", "0.04 %", "10,000", "hit"]);
    }

    #[test]
    fn a_goal_without_a_figure_is_open() {
        assert_eq!(idle("Users", &[&row(1, 0.0, 1.0)]).cells()[3], "open");
    }

    #[test]
    fn a_goal_is_met_as_the_page_shows_it() {
        let rows = [row(1, 0.0, 1.0), row(2, 0.0, 1.0549)];
        assert_eq!(cpu("Users", &rows.iter().collect::<Vec<_>>()).cells()[3], "hit");
    }

    #[test]
    fn every_engine_has_its_own_goals() {
        let rounds_us = [1.0, 1.0, 1.0, 1.3, 1.0, 1.0, 1.2].map(|us| vec![us]).to_vec();
        let row = WorkersRow { engine: ENGINES[1], clients: 64, rounds_us };
        let goals = of_workers(&[&row]);
        let states: Vec<_> = goals.iter().map(|goal| goal.cells()[3].clone()).collect();
        let of_epoll = ["**miss**", "hit", "hit", "**miss**", "hit"];
        assert_eq!(states, [["open"; 5], of_epoll].concat());
    }
}
