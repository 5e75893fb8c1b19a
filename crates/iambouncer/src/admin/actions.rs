//! Commands that change something. Owns their arguments and when they are done.

use super::console::Console;
use super::table::Outcome;
use crate::faults::{self, Blame, Fault};
use crate::lifecycle::Phase;
use crate::net::tls_config;
use crate::pool::DatabaseState;
use std::rc::Rc;
use std::sync::Arc;

fn invalid(text: impl Into<String>) -> Fault {
    Fault::new(Blame::Client, "22023", text.into())
}

/// An identifier as typed: in double quotes it keeps everything, else it is as it stands.
fn name(argument: &str) -> String {
    match argument.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) => inner.replace("\"\"", "\""),
        None => argument.to_owned(),
    }
}

/// The database an argument names, or all.
fn optional_database(console: &Console, argument: &str) -> Result<Option<Rc<DatabaseState>>, Fault> {
    if argument.is_empty() { Ok(None) } else { database(console, argument).map(Some) }
}

fn database(console: &Console, argument: &str) -> Result<Rc<DatabaseState>, Fault> {
    let name = name(argument);
    let known = console.directory.databases().into_iter().find(|database| *database.name == *name);
    known.ok_or_else(|| faults::unknown_database(&name))
}

pub(super) fn set(console: Rc<Console>, argument: String) -> Outcome {
    Box::pin(async move {
        let (key, value) = argument
            .split_once('=')
            .or_else(|| {
                let at = argument.to_ascii_uppercase().find(" TO ")?;
                Some((&argument[..at], &argument[at + 4..]))
            })
            .ok_or_else(|| invalid("usage: SET key = value"))?;
        let (key, value) = (key.trim(), unquote(value.trim()));
        let mut loaded = (*console.context.loaded()).clone();
        let info = crate::config::table().iter().find(|setting| setting.name == key);
        if info.is_some_and(|setting| !setting.reloadable()) {
            return Err(invalid(format!("{key} can be changed by a restart only")));
        }
        let config = Arc::make_mut(&mut loaded.config);
        config.settings.set(key, &value).map_err(|error| {
            let fault = invalid(error.to_string());
            match error.help() {
                Some(help) => fault.hint(help),
                None => fault,
            }
        })?;
        if key.contains("_tls_") {
            let settings = &loaded.config.settings;
            let refused = |error: tls_config::TlsConfigError| invalid(error.to_string());
            loaded.server_tls = tls_config::for_servers(settings).map_err(refused)?;
            loaded.client_tls = tls_config::for_clients(settings).map_err(refused)?;
        }
        console.context.replace(loaded);
        console.directory.reload();
        tracing::info!("SET {key}");
        Ok(())
    })
}

fn unquote(value: &str) -> String {
    match value.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
        Some(inner) => inner.replace("''", "'"),
        None => value.to_owned(),
    }
}

pub(super) fn reload(console: Rc<Console>, _: String) -> Outcome {
    Box::pin(
        async move { console.reload().await.map_err(|text| Fault::new(Blame::Configuration, "F0000", text)) },
    )
}

pub(super) fn pause(console: Rc<Console>, argument: String) -> Outcome {
    Box::pin(async move {
        let database = optional_database(&console, &argument)?;
        let already = match &database {
            Some(database) => database.paused.get(),
            None => console.directory.paused.get(),
        };
        if already {
            return Err(invalid("already paused"));
        }
        console.directory.set_paused(database.as_ref(), true);
        tracing::info!(database = argument, "PAUSE");
        while console.directory.busy_servers(database.as_ref()) > 0 {
            console.directory.changed.wait().await;
            let still = match &database {
                Some(database) => database.paused.get(),
                None => console.directory.paused.get(),
            };
            if !still {
                return Err(Fault::new(Blame::Client, "57014", "PAUSE was undone by RESUME"));
            }
        }
        Ok(())
    })
}

pub(super) fn resume(console: Rc<Console>, argument: String) -> Outcome {
    Box::pin(async move {
        let database = optional_database(&console, &argument)?;
        if let Some(database) = &database
            && !database.paused.get()
        {
            return Err(invalid(format!("database {} is not paused", database.name)));
        }
        console.directory.set_paused(database.as_ref(), false);
        console.directory.changed.notify_all();
        tracing::info!(database = argument, "RESUME");
        Ok(())
    })
}

pub(super) fn disable(console: Rc<Console>, argument: String) -> Outcome {
    Box::pin(async move {
        database(&console, &argument)?.disabled.set(true);
        Ok(())
    })
}

pub(super) fn enable(console: Rc<Console>, argument: String) -> Outcome {
    Box::pin(async move {
        database(&console, &argument)?.disabled.set(false);
        Ok(())
    })
}

fn chosen(console: &Console, database: Option<&Rc<DatabaseState>>) -> Vec<Rc<crate::pool::Pool>> {
    let all = console.directory.pools();
    all.into_iter().filter(|pool| database.is_none_or(|d| Rc::ptr_eq(d, &pool.database))).collect()
}

pub(super) fn reconnect(console: Rc<Console>, argument: String) -> Outcome {
    Box::pin(async move {
        let database = optional_database(&console, &argument)?;
        for pool in chosen(&console, database.as_ref()) {
            pool.retire_all();
        }
        Ok(())
    })
}

pub(super) fn wait_close(console: Rc<Console>, argument: String) -> Outcome {
    Box::pin(async move {
        let database = optional_database(&console, &argument)?;
        let pools = chosen(&console, database.as_ref());
        let pending = || pools.iter().any(|pool| pool.table.list().iter().any(|s| s.close_needed.get()));
        while pending() {
            console.directory.changed.wait().await;
        }
        Ok(())
    })
}

pub(super) fn kill(console: Rc<Console>, argument: String) -> Outcome {
    Box::pin(async move {
        let database = optional_database(&console, &argument)?;
        console.directory.set_paused(database.as_ref(), true);
        for client in console.clients.list() {
            let pool = client.pool.borrow().clone();
            let hit = pool.is_some_and(|p| database.as_ref().is_none_or(|d| Rc::ptr_eq(d, &p.database)));
            if hit {
                client.kill(faults::killed());
            }
        }
        Ok(())
    })
}

pub(super) fn kill_client(console: Rc<Console>, argument: String) -> Outcome {
    Box::pin(async move {
        let id: u64 = argument.parse().map_err(|_| invalid("usage: KILL_CLIENT id"))?;
        let client = console.clients.list().into_iter().find(|client| client.id == id);
        client.ok_or_else(|| invalid(format!("no client with id {id}")))?.kill(faults::killed());
        Ok(())
    })
}

pub(super) fn shutdown(console: Rc<Console>, argument: String) -> Outcome {
    Box::pin(async move {
        let phase = match argument.to_ascii_uppercase().as_str() {
            "" => Phase::Now,
            "WAIT_FOR_SERVERS" => Phase::WaitForServers,
            "WAIT_FOR_CLIENTS" => Phase::WaitForClients,
            _ => return Err(invalid("usage: SHUTDOWN [WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS]")),
        };
        tracing::info!(?phase, "SHUTDOWN");
        console.lifecycle.advance(phase);
        Ok(())
    })
}
