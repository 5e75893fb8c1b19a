//! Commands that change something. Owns their checks, which are PgBouncer's, and their completion.

use super::console::Console;
use super::table::CommandOutcome;
use super::{DATABASE, syntax_error};
use crate::client_error::messages::{self, PoolerMessage};
use crate::client_error::{self, Blame, ClientError};
use crate::clients::ClientInfo;
use crate::lifecycle::Phase;
use crate::pool::Pool;
use crate::worker::timers;
use std::collections::BTreeSet;
use std::future::ready;
use std::rc::Rc;
use std::time::Duration;

/// How long KILL and KILL_CLIENT wait until the clients are gone. One that does not read its final message takes longer.
const KILL_WAIT: Duration = Duration::from_secs(1);

/// Logs a command as PgBouncer does.
pub(super) fn log(command: &str, database: &str) {
    match database {
        "" => tracing::info!(event = "command", "{command} command issued"),
        name => tracing::info!(event = "command", "{command} '{name}' command issued"),
    }
}

/// The database that an argument names, or `None` for all. The console is refused with `not_console`.
pub(super) fn optional_database(
    console: &Console,
    name: &str,
    not_console: &'static PoolerMessage,
) -> Result<Option<String>, ClientError> {
    if name.is_empty() { Ok(None) } else { database(console, name, not_console).map(Some) }
}

fn database(
    console: &Console,
    name: &str,
    not_console: &'static PoolerMessage,
) -> Result<String, ClientError> {
    if name == DATABASE {
        return Err(not_console.of(name));
    }
    if console.directory.covers(name) { Ok(name.to_owned()) } else { Err(unknown(name)) }
}

fn unknown(name: &str) -> ClientError {
    messages::UNKNOWN_DATABASE.of(name)
}

/// PAUSE of all databases excludes further commands that pause.
fn check_not_paused(console: &Console) -> Result<(), ClientError> {
    if console.directory.paused.get() { Err(messages::ALREADY_PAUSED.error()) } else { Ok(()) }
}

/// The pools of a database at this worker, or all pools.
fn pools_of(console: &Console, database: Option<&str>) -> Vec<Rc<Pool>> {
    let all = console.directory.pools();
    all.into_iter().filter(|pool| database.is_none_or(|name| name == &*pool.database.name)).collect()
}

fn is_paused(console: &Console, database: Option<&str>) -> bool {
    match database {
        Some(name) => console.directory.known(name).is_some_and(|database| database.is_paused()),
        None => console.directory.paused.get(),
    }
}

pub(super) fn reload(console: Rc<Console>, _: String) -> CommandOutcome {
    Box::pin(async move {
        log("RELOAD", "");
        console.reload().await.map_err(|text| {
            for (number, line) in text.lines().enumerate() {
                // The first line names the error; the others show where it is.
                let event = (number == 0).then_some("reload_failed");
                tracing::error!(event, "{line}");
            }
            tracing::error!("RELOAD Failed, see logs for more details");
            client_error::reload_failed(text)
        })
    })
}

pub(super) fn pause(console: Rc<Console>, name: String) -> CommandOutcome {
    Box::pin(async move {
        if !console.lifecycle.phase().is_serving() {
            return Err(messages::POOLER_SHUTTING_DOWN.error());
        }
        check_not_paused(&console)?;
        log("PAUSE", &name);
        let database = optional_database(&console, &name, &messages::CANNOT_PAUSE)?;
        console.set_paused(database.clone(), true).await;
        let drained = console.at_all(move |console| drained(console, database.clone())).await;
        drained.into_iter().collect()
    })
}

/// Waits until no server of this worker is in use.
async fn drained(console: Rc<Console>, database: Option<String>) -> Result<(), ClientError> {
    let busy =
        || pools_of(&console, database.as_deref()).iter().map(|pool| pool.busy_servers()).sum::<usize>();
    while busy() > 0 {
        // RESUME may have arrived before this worker received the request.
        if !is_paused(&console, database.as_deref()) {
            return Err(ClientError::new(Blame::Client, "57014", "PAUSE was canceled by RESUME"));
        }
        console.directory.changed.wait().await;
    }
    Ok(())
}

pub(super) fn resume(console: Rc<Console>, name: String) -> CommandOutcome {
    Box::pin(async move {
        if !console.lifecycle.phase().is_serving() {
            return Err(messages::POOLER_SHUTTING_DOWN.error());
        }
        log("RESUME", &name);
        if name.is_empty() {
            if !console.directory.paused.get() {
                return Err(messages::NOT_PAUSED.error());
            }
            console.set_paused(None, false).await;
            return Ok(());
        }
        let known = console.directory.known(&name).map(|database| database.paused.get());
        match known {
            Some(true) => console.set_paused(Some(name), false).await,
            Some(false) => return Err(messages::DATABASE_NOT_PAUSED.of(&name)),
            None if name == DATABASE => return Err(messages::DATABASE_NOT_PAUSED.of(&name)),
            None => return Err(unknown(&name)),
        }
        Ok(())
    })
}

pub(super) fn disable(console: Rc<Console>, name: String) -> CommandOutcome {
    Box::pin(async move { set_disabled(&console, &name, true).await })
}

pub(super) fn enable(console: Rc<Console>, name: String) -> CommandOutcome {
    Box::pin(async move { set_disabled(&console, &name, false).await })
}

async fn set_disabled(console: &Console, name: &str, disabled: bool) -> Result<(), ClientError> {
    if name.is_empty() {
        return Err(messages::DATABASE_NEEDED.error());
    }
    let (command, not_console) = match disabled {
        true => ("DISABLE", &messages::CANNOT_DISABLE),
        false => ("ENABLE", &messages::CANNOT_ENABLE),
    };
    log(command, name);
    let name = database(console, name, not_console)?;
    if !disabled && console.directory.known(&name).is_none() {
        return Err(unknown(&name));
    }
    console
        .at_all(move |console| {
            if let Some(database) = console.directory.database(&name) {
                database.disabled.set(disabled);
            }
            ready(())
        })
        .await;
    Ok(())
}

pub(super) fn reconnect(console: Rc<Console>, name: String) -> CommandOutcome {
    Box::pin(async move {
        log("RECONNECT", &name);
        let database = optional_database(&console, &name, &messages::CANNOT_RECONNECT)?;
        console
            .at_all(move |console| {
                for pool in pools_of(&console, database.as_deref()) {
                    pool.retire_all();
                }
                ready(())
            })
            .await;
        Ok(())
    })
}

pub(super) fn wait_close(console: Rc<Console>, name: String) -> CommandOutcome {
    Box::pin(async move {
        log("WAIT_CLOSE", &name);
        let database = optional_database(&console, &name, &messages::CANNOT_WAIT)?;
        console.at_all(move |console| closed(console, database.clone())).await;
        Ok(())
    })
}

/// Waits until this worker has closed every server marked for closing.
async fn closed(console: Rc<Console>, database: Option<String>) {
    let pools = pools_of(&console, database.as_deref());
    let pending = || {
        let close_needed = |pool: &Rc<Pool>| pool.table.list().iter().any(|server| server.close_needed.get());
        pools.iter().any(close_needed) || pools.iter().any(|pool| pool.is_sending_servers())
    };
    while pending() {
        console.directory.changed.wait().await;
    }
}

pub(super) fn kill(console: Rc<Console>, name: String) -> CommandOutcome {
    Box::pin(async move {
        check_not_paused(&console)?;
        log("KILL", &name);
        let databases: BTreeSet<String> = match optional_database(&console, &name, &messages::CANNOT_KILL)? {
            Some(name) => [name].into(),
            None => console.names_of_used_databases().await,
        };
        for name in databases.clone() {
            console.set_paused(Some(name), true).await;
        }
        let is_killed = move |client: &ClientInfo| {
            client.pool.get().is_some_and(|pool| databases.contains(&*pool.database.name))
        };
        let error = client_error::killed_with_database;
        console.at_all(move |console| end_clients(console, is_killed.clone(), error)).await;
        Ok(())
    })
}

/// Closes clients of this worker and waits until they are gone. Returns how many there were.
async fn end_clients(
    console: Rc<Console>,
    is_chosen: impl Fn(&ClientInfo) -> bool,
    error: fn() -> ClientError,
) -> usize {
    let chosen: Vec<_> = console.clients.list().into_iter().filter(|client| is_chosen(client)).collect();
    for client in &chosen {
        client.kill(error());
    }
    let slots: BTreeSet<u32> = chosen.iter().map(|client| client.slot).collect();
    drop(chosen);
    timers::timeout(KILL_WAIT, async {
        while slots.iter().any(|slot| console.clients.at(*slot).is_some()) {
            console.directory.client_left.wait().await;
        }
    })
    .await;
    slots.len()
}

pub(super) fn kill_client(console: Rc<Console>, argument: String) -> CommandOutcome {
    Box::pin(async move {
        // As PgBouncer reads it: the digits at the front.
        let digits = argument.bytes().take_while(u8::is_ascii_digit).count();
        let id: Result<u64, _> = argument[..digits].parse();
        let id = id.map_err(|_| messages::INVALID_CLIENT.error())?;
        let error = client_error::killed;
        let ended = console.at_all(move |console| end_clients(console, move |client| client.id == id, error));
        if ended.await.iter().sum::<usize>() > 0 { Ok(()) } else { Err(messages::CLIENT_NOT_FOUND.error()) }
    })
}

/// SUSPEND belongs to PgBouncer's online restart, in which one process passes its sockets to the next.
pub(super) fn suspend(_: Rc<Console>, _: String) -> CommandOutcome {
    Box::pin(ready(Err(online_restart("SUSPEND"))))
}

/// A command of PgBouncer's online restart.
pub(super) fn online_restart(command: &str) -> ClientError {
    let text =
        format!("{command} is not supported: it is part of the online restart, deprecated in PgBouncer");
    ClientError::new(Blame::Client, "08P01", text)
        .hint("Let the new process listen on the same port (so_reuseport), then stop the old one.")
}

/// What SIGTERM does if `drain_max_seconds` is set.
pub(super) fn drain(console: Rc<Console>, _: String) -> CommandOutcome {
    Box::pin(async move {
        log("DRAIN", "");
        if console.drain() {
            return Ok(());
        }
        let error = ClientError::new(Blame::Client, "55000", "drain_max_seconds is not set");
        Err(error.hint(
            "SET drain_max_seconds = 25, or use SHUTDOWN WAIT_FOR_CLIENTS, which waits without a limit.",
        ))
    })
}

pub(super) fn shutdown(console: Rc<Console>, argument: String) -> CommandOutcome {
    Box::pin(async move {
        let mode = argument.to_ascii_uppercase();
        let phase = match mode.as_str() {
            "" => Phase::Now,
            "WAIT_FOR_SERVERS" => Phase::WaitForServers,
            "WAIT_FOR_CLIENTS" => Phase::WaitForClients,
            _ => return Err(syntax_error(&format!("SHUTDOWN {argument}"))),
        };
        match phase {
            Phase::Now => log("SHUTDOWN", ""),
            _ => log(&format!("SHUTDOWN {mode}"), ""),
        }
        console.advance(phase);
        Ok(())
    })
}
