//! `iambouncer top`: the dashboard in a terminal. Owns the loop over keys and updates, and the connection to the console, which
//! it opens again after a restart of the pooler. It changes nothing.

mod screen;
mod snapshot;
mod views;

use super::arguments::Top;
use super::console_client::ConsoleClient;
use super::{Failure, control};
use ratatui::DefaultTerminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use screen::Screen;
use snapshot::TopSnapshot;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};
use views::VIEWS;

/// Width of the output that is not a terminal's.
const WIDTH: u16 = 140;
/// Height of it besides the rows; empty lines at its end are not printed.
const HEIGHT: u16 = 30;
/// Longest wait for a pooler that does not answer: meanwhile keys have no effect.
const MAX_ANSWER: Duration = Duration::from_secs(3);
/// Longest wait for a key: a change of the terminal's size is shown within it.
const MAX_WAIT: Duration = Duration::from_millis(250);

/// What a key does.
enum KeyCommand {
    Quit,
    Redraw,
    Nothing,
}

pub(super) fn run(options: &Top) -> Result<(), Failure> {
    if options.once || !std::io::stdout().is_terminal() {
        let text = once(options).map_err(Failure::Start)?;
        return super::print(text.as_bytes());
    }
    // A pooler that does not run is reported before the screen is cleared.
    let client = control::connect(&options.console).map_err(Failure::Start)?;
    let mut terminal = ratatui::try_init().map_err(|error| Failure::Start(error.into()))?;
    let outcome = show(&mut terminal, options, client);
    ratatui::restore();
    outcome.map_err(Failure::Start)
}

/// The first view as text.
fn once(options: &Top) -> anyhow::Result<String> {
    let mut client = control::connect(&options.console)?;
    let mut screen = Screen::new(true);
    let snapshot = TopSnapshot::read(&mut client, screen.view())?;
    let height = u16::try_from(snapshot.rows.rows.len()).unwrap_or(u16::MAX).saturating_add(HEIGHT);
    screen.update(snapshot);
    let mut terminal = ratatui::Terminal::new(TestBackend::new(WIDTH, height))?;
    terminal.draw(|frame| screen.draw(frame))?;
    let lines = terminal.backend().to_string();
    // Each line of the backend's text is in quotes.
    let unquoted =
        |line| str::strip_suffix(line, '"').and_then(|line: &str| line.strip_prefix('"')).unwrap_or(line);
    let lines: Vec<&str> = lines.lines().map(|line| unquoted(line).trim_end()).collect();
    let end = lines.iter().rposition(|line| !line.is_empty()).map_or(0, |last| last + 1);
    Ok(lines[..end].join("\n") + "\n")
}

fn show(terminal: &mut DefaultTerminal, options: &Top, client: ConsoleClient) -> anyhow::Result<()> {
    let interval = Duration::from_secs(options.interval.into());
    let mut screen = Screen::new(std::env::var_os("NO_COLOR").is_some());
    let mut client = Some(client);
    loop {
        let began = Instant::now();
        match update(&mut client, options, &screen) {
            Ok(snapshot) => screen.update(snapshot),
            Err(error) => {
                client = None;
                screen.fail(format!("{error:#}"));
            }
        }
        terminal.draw(|frame| screen.draw(frame))?;
        let next = began + interval;
        loop {
            let left = next.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            if !event::poll(left.min(MAX_WAIT))? {
                continue;
            }
            match command(&event::read()?, &mut screen) {
                KeyCommand::Quit => return Ok(()),
                KeyCommand::Redraw => break,
                KeyCommand::Nothing => {}
            }
        }
    }
}

fn update(client: &mut Option<ConsoleClient>, options: &Top, screen: &Screen) -> anyhow::Result<TopSnapshot> {
    let client = match client {
        Some(client) => client,
        None => client.insert(control::connect(&options.console)?),
    };
    client.limit(Duration::from_secs(options.console.timeout).min(MAX_ANSWER));
    TopSnapshot::read(client, screen.view())
}

fn command(event: &Event, screen: &mut Screen) -> KeyCommand {
    let key = match event {
        Event::Resize(..) => return KeyCommand::Redraw,
        Event::Key(key) if key.kind == KeyEventKind::Press => *key,
        _ => return KeyCommand::Nothing,
    };
    match key {
        KeyEvent { code: KeyCode::Char('q') | KeyCode::Esc, .. } => return KeyCommand::Quit,
        KeyEvent { code: KeyCode::Char('c'), modifiers: KeyModifiers::CONTROL, .. } => {
            return KeyCommand::Quit;
        }
        KeyEvent { code: KeyCode::Tab | KeyCode::Right, .. } => screen.select_after(1),
        KeyEvent { code: KeyCode::BackTab | KeyCode::Left, .. } => screen.select_after(VIEWS.len() - 1),
        KeyEvent { code: KeyCode::Char(digit @ '1'..='9'), .. } => {
            screen.select((digit as usize).saturating_sub('1' as usize));
        }
        KeyEvent { code: KeyCode::Down, .. } => screen.scroll(1),
        KeyEvent { code: KeyCode::Up, .. } => screen.scroll(-1),
        KeyEvent { code: KeyCode::PageDown, .. } => screen.scroll(10),
        KeyEvent { code: KeyCode::PageUp, .. } => screen.scroll(-10),
        _ => return KeyCommand::Nothing,
    }
    KeyCommand::Redraw
}
