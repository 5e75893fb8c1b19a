//! The screen of `top`: a line about the process, the problems, and the rows of one view. Owns the layout and what is selected.

use super::super::console_client::ConsoleTable;
use super::snapshot::TopSnapshot;
use super::views::{ShownAs, VIEWS, View};
use crate::printable;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table, Wrap};

/// Lines for problems, at most.
const MAX_PROBLEM_LINES: usize = 6;
/// Width of a column, at most; the last one has the rest.
const MAX_COLUMN: usize = 48;
/// The bars of a history, from low to high.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Samples shown of a history.
const SAMPLES: usize = 30;

/// What is shown, and what is selected.
pub(super) struct Screen {
    is_plain: bool,
    view: usize,
    first_row: usize,
    snapshot: Option<TopSnapshot>,
    failure: Option<String>,
}

impl Screen {
    /// A screen without colours, if `is_plain`.
    pub(super) fn new(is_plain: bool) -> Self {
        Self { is_plain, view: 0, first_row: 0, snapshot: None, failure: None }
    }

    /// The selected view.
    pub(super) fn view(&self) -> usize {
        self.view
    }

    /// Selects a view, if there is one at this place.
    pub(super) fn select(&mut self, view: usize) {
        if view < VIEWS.len() {
            self.view = view;
            self.first_row = 0;
        }
    }

    /// Selects the view this many places after the selected one.
    pub(super) fn select_after(&mut self, places: usize) {
        self.select((self.view + places) % VIEWS.len());
    }

    /// Moves the rows.
    pub(super) fn scroll(&mut self, rows: isize) {
        let count = self.snapshot.as_ref().map_or(0, |snapshot| snapshot.rows.rows.len());
        self.first_row = self.first_row.saturating_add_signed(rows).min(count.saturating_sub(1));
    }

    /// Shows new data.
    pub(super) fn update(&mut self, snapshot: TopSnapshot) {
        self.failure = None;
        self.snapshot = Some(snapshot);
        self.scroll(0);
    }

    /// Shows why there are no new data, above the last ones.
    pub(super) fn fail(&mut self, reason: String) {
        self.failure = Some(reason);
    }

    fn style(&self, colour: Color) -> Style {
        if self.is_plain { Style::new() } else { Style::new().fg(colour) }
    }

    fn bold(&self) -> Style {
        if self.is_plain { Style::new() } else { Style::new().add_modifier(Modifier::BOLD) }
    }

    /// Draws everything.
    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let problems = self.problems();
        let [head, above, tabs, rows] = Layout::vertical([
            Constraint::Length(2),
            Constraint::Length(problems.len() as u16 + 1),
            Constraint::Length(2),
            Constraint::Min(1),
        ])
        .areas(frame.area());
        frame.render_widget(Paragraph::new(self.head()), head);
        frame.render_widget(Paragraph::new(problems).wrap(Wrap { trim: true }), above);
        frame.render_widget(Paragraph::new(self.tabs()), tabs);
        if let (Some(snapshot), Some(view)) = (&self.snapshot, VIEWS.get(self.view))
            && snapshot.view == self.view
        {
            self.draw_rows(frame, rows, snapshot, view);
        }
    }

    fn head(&self) -> Vec<Line<'static>> {
        let Some(snapshot) = &self.snapshot else { return Vec::new() };
        let status = |key: &str| printable::line(snapshot.status.of_key(key));
        let (pools, latencies) = (&snapshot.pools, &snapshot.latencies);
        let ready = if status("ready") == "yes" { "ready" } else { "not ready" };
        let uptime = ShownAs::Seconds.show(&status("uptime_seconds"));
        let waiting = TopSnapshot::sum(pools, "cl_waiting");
        let counts = format!(
            "clients: {}, {waiting} waiting   servers: {} in use, {} idle   {} queries/s",
            TopSnapshot::sum(pools, "cl_active") + waiting,
            TopSnapshot::sum(pools, "sv_active"),
            TopSnapshot::sum(pools, "sv_idle"),
            TopSnapshot::sum(latencies, "queries_per_s"),
        );
        let state = format!(
            "{}, {ready}, up for {uptime}, process {}",
            status("state").replace('_', " "),
            status("pid")
        );
        vec![
            Line::from(vec![Span::styled("iambouncer  ", self.bold()), Span::raw(state)]),
            Line::from(counts),
        ]
    }

    /// Problems, errors first; without any, a line that says so.
    fn problems(&self) -> Vec<Line<'static>> {
        let mut lines = Vec::new();
        if let Some(reason) = &self.failure {
            lines.push(Line::styled(printable::line(reason), self.style(Color::Red)));
        }
        let Some(snapshot) = &self.snapshot else { return lines };
        let table = &snapshot.problems;
        for row in table.rows.iter().take(MAX_PROBLEM_LINES) {
            let is_error = table.value(row, "severity") == "error";
            let (mark, colour) = if is_error { ("✘ ", Color::Red) } else { ("! ", Color::Yellow) };
            lines.push(Line::styled(
                format!("{mark}{}", printable::line(table.value(row, "problem"))),
                self.style(colour),
            ));
        }
        match table.rows.len().checked_sub(MAX_PROBLEM_LINES) {
            Some(more @ 1..) => lines.push(Line::from(format!("{more} more: SHOW PROBLEMS"))),
            _ if lines.is_empty() => lines.push(Line::styled("No problems.", self.style(Color::Green))),
            _ => {}
        }
        lines
    }

    fn tabs(&self) -> Line<'static> {
        let mut spans = Vec::new();
        for (place, view) in VIEWS.iter().enumerate() {
            let text = format!("{} {}", place + 1, view.title);
            let selected = if self.is_plain { format!("[{text}]") } else { text.clone() };
            spans.push(match place == self.view {
                true => Span::styled(selected, self.bold().patch(self.style(Color::Cyan))),
                false => Span::raw(text),
            });
            spans.push(Span::raw("  "));
        }
        spans.push(Span::raw(" q quits"));
        Line::from(spans)
    }

    fn draw_rows(&self, frame: &mut Frame<'_>, area: Rect, snapshot: &TopSnapshot, view: &View) {
        let table = &snapshot.rows;
        let mut cells: Vec<Vec<String>> = table
            .rows
            .iter()
            .map(|row| {
                view.columns.iter().map(|(_, column, unit)| unit.show(table.value(row, column))).collect()
            })
            .collect();
        let mut titles: Vec<&str> = view.columns.iter().map(|(title, ..)| *title).collect();
        if view.command == "SHOW POOLS" {
            titles.push("last minutes");
            for (row, cells) in table.rows.iter().zip(&mut cells) {
                cells.push(bars(snapshot.history_of(table.value(row, "database"), table.value(row, "user"))));
            }
        }
        let is_number = |at: usize| view.columns.get(at).is_some_and(|(_, _, unit)| unit.is_number());
        let widths: Vec<usize> = titles
            .iter()
            .enumerate()
            .map(|(at, title)| width(&cells, at).max(title.chars().count()).min(MAX_COLUMN))
            .collect();
        let aligned = |at: usize, text: &str| match (is_number(at), widths.get(at)) {
            (true, Some(width)) => format!("{text:>0$}", *width),
            _ => text.to_owned(),
        };
        let head =
            Row::new(titles.iter().enumerate().map(|(at, title)| aligned(at, title))).style(self.bold());
        let shown = cells.iter().zip(&table.rows).skip(self.first_row).map(|(row, values)| {
            let line = Row::new(row.iter().enumerate().map(|(at, text)| Cell::from(aligned(at, text))));
            line.style(self.row_style(table, values))
        });
        let last = titles.len().saturating_sub(1);
        let constraints = widths.iter().enumerate().map(|(at, width)| {
            if at == last { Constraint::Min(*width as u16) } else { Constraint::Length(*width as u16) }
        });
        frame.render_widget(Table::new(shown, constraints).header(head).column_spacing(2), area);
    }

    /// Rows that need attention have a colour.
    fn row_style(&self, table: &ConsoleTable, row: &crate::sql_client::TextRow) -> Style {
        let number = |column: &str| table.value(row, column).parse::<u64>().unwrap_or(0);
        let is_bad = number("cl_waiting") > 0
            || table.value(row, "level") == "error"
            || !table.value(row, "last_error").is_empty();
        if is_bad { self.style(Color::Red) } else { Style::new() }
    }
}

/// The widest text of a column.
fn width(rows: &[Vec<String>], at: usize) -> usize {
    rows.iter().filter_map(|row| row.get(at)).map(|text| text.chars().count()).max().unwrap_or(0)
}

/// The last samples as bars.
fn bars(samples: &[u64]) -> String {
    let shown = &samples[samples.len().saturating_sub(SAMPLES)..];
    let most = shown.iter().copied().max().unwrap_or(0).max(1);
    let bar = |sample: &u64| {
        let step = (sample * (BARS.len() as u64 - 1)).div_ceil(most) as usize;
        BARS.get(step).copied().unwrap_or('█')
    };
    shown.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_relative_to_the_highest_sample() {
        assert_eq!(bars(&[0, 1, 7, 14]), "▁▂▅█");
        assert_eq!((bars(&[]).as_str(), bars(&[0, 0]).as_str()), ("", "▁▁"));
        assert_eq!(bars(&[1; 100]).chars().count(), SAMPLES);
    }

    #[test]
    fn selection_wraps_around_and_stays_within_the_views() {
        let mut screen = Screen::new(true);
        screen.select_after(VIEWS.len() - 1);
        assert_eq!(screen.view(), VIEWS.len() - 1);
        screen.select_after(1);
        assert_eq!(screen.view(), 0);
        screen.select(99);
        screen.scroll(5);
        assert_eq!((screen.view(), screen.first_row), (0, 0));
    }
}
