//! RECONNECT_CLIENTS: closes the clients that are connected now, between transactions and spread over a period, so that
//! they reconnect through the load balancer. Owns its arguments and the task at each worker.

use super::actions::{self, log};
use super::console::Console;
use super::table::CommandOutcome;
use super::{syntax_error, words};
use crate::client_error::{Blame, ClientError, messages};
use crate::clients::{ClientInfo, Departure, DeparturePeriod, Departures, STEP};
use crate::net::connection_id;
use crate::worker::{self, executor, timers};
use std::future::ready;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Commands under way at the same time.
const MAX_UNDER_WAY: u32 = 16;
/// The longest period.
const MAX_PERIOD: Duration = Duration::from_secs(24 * 3600);
/// How long clients that were asked last are woken after the period.
const LAST_STEPS: Duration = Duration::from_secs(2);

/// The database, if any, and the period, if any.
fn arguments(console: &Console, text: &str) -> Result<(String, Option<Duration>), ClientError> {
    let wrong = || syntax_error(&format!("RECONNECT_CLIENTS {text}"));
    let Some((first, rest)) = words::take(text) else { return Ok((String::new(), None)) };
    let second = words::at_most_one(rest).ok_or_else(wrong)?;
    if second.is_empty() {
        return match seconds(&first) {
            Some(period) if console.directory.known(&first).is_none() => Ok((String::new(), Some(period))),
            _ => Ok((first, None)),
        };
    }
    Ok((first, Some(seconds(&second).ok_or_else(wrong)?)))
}

fn seconds(text: &str) -> Option<Duration> {
    let seconds = text.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok().filter(|period| *period <= MAX_PERIOD)
}

/// The command; answered at once.
pub(super) fn reconnect_clients(console: Rc<Console>, text: String) -> CommandOutcome {
    Box::pin(async move {
        let (name, period) = arguments(&console, &text)?;
        log("RECONNECT_CLIENTS", &name);
        let database = actions::optional_database(&console, &name, &messages::CANNOT_RECONNECT)?;
        if console.reconnects.get() >= MAX_UNDER_WAY {
            let text = format!("{MAX_UNDER_WAY} RECONNECT_CLIENTS commands are under way");
            return Err(ClientError::new(Blame::Client, "55000", text));
        }
        let drain = console.context.config().settings.drain_period().unwrap_or_default();
        let begin = worker::now();
        let period = DeparturePeriod { begin, end: begin + period.unwrap_or(drain.max - drain.min) };
        // Clients have growing numbers: those that connect from now on are not affected.
        let newest = connection_id::next();
        console
            .at_all(move |console| {
                console.reconnects.set(console.reconnects.get() + 1);
                executor::spawn(run(console, database.clone(), newest, period));
                ready(())
            })
            .await;
        Ok(())
    })
}

/// Closes the clients of this worker.
async fn run(console: Rc<Console>, database: Option<String>, newest: u64, period: DeparturePeriod) {
    let mut departures = Departures::new(Departure::Reconnect, console.context.worker);
    let is_chosen = |client: &ClientInfo| {
        let is_of_database =
            |name: &String| client.pool.get().is_some_and(|pool| *pool.database.name == **name);
        client.id < newest && database.as_ref().is_none_or(is_of_database)
    };
    let is_over = |now: Instant| now >= period.end + LAST_STEPS;
    while !is_over(worker::now()) {
        departures.step(&console.clients, is_chosen, &period, worker::now());
        timers::sleep(STEP).await;
    }
    console.reconnects.set(console.reconnects.get() - 1);
}
