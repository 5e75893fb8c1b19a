//! Commands that change something. Owns their arguments and their completion.

use super::console::Console;
use super::table::CommandOutcome;
use crate::client_error::{self, Blame, ClientError};
use crate::config::AuthType;
use crate::lifecycle::Phase;
use crate::pool::Pool;
use std::future::ready;
use std::rc::Rc;
use std::sync::Arc;

fn invalid(text: impl Into<String>) -> ClientError {
    ClientError::new(Blame::Client, "22023", text.into())
}

/// An identifier as typed: in double quotes it is taken literally, without them as it is.
fn name(argument: &str) -> String {
    match argument.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) => inner.replace("\"\"", "\""),
        None => argument.to_owned(),
    }
}

/// The database that an argument names, or `None` for all.
fn optional_database(console: &Console, argument: &str) -> Result<Option<String>, ClientError> {
    if argument.is_empty() { Ok(None) } else { database(console, argument).map(Some) }
}

fn database(console: &Console, argument: &str) -> Result<String, ClientError> {
    let name = name(argument);
    if console.directory.covers(&name) { Ok(name) } else { Err(client_error::unknown_database(&name)) }
}

/// The pools of a database at this worker, or all pools.
fn pools_of(console: &Console, database: Option<&str>) -> Vec<Rc<Pool>> {
    let all = console.directory.pools();
    all.into_iter().filter(|pool| database.is_none_or(|name| name == &*pool.database.name)).collect()
}

fn is_paused(console: &Console, database: Option<&str>) -> bool {
    match database {
        Some(name) => console.directory.known(name).is_some_and(|database| database.paused.get()),
        None => console.directory.paused.get(),
    }
}

pub(super) fn set(console: Rc<Console>, argument: String) -> CommandOutcome {
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
            return Err(invalid(format!("{key} cannot be changed without a restart")));
        }
        let config = Arc::make_mut(&mut loaded.config);
        config.settings.set(key, &value).map_err(|error| {
            let rejection = invalid(error.to_string());
            match error.help() {
                Some(help) => rejection.hint(help),
                None => rejection,
            }
        })?;
        if let Some(error) = crate::config::first_new_error(&console.context.config(), &loaded.config) {
            let rejection = invalid(error.message);
            return Err(match error.help {
                Some(help) => rejection.hint(help),
                None => rejection,
            });
        }
        // Files are read only if the setting needs them: others must not apply file changes before a RELOAD.
        let kind = loaded.config.settings.auth_type;
        let needs_rules = match key {
            "auth_type" => matches!(kind, AuthType::Hba | AuthType::Ldap),
            // They may need TLS.
            "auth_ldap_options" => kind == AuthType::Ldap,
            _ => false,
        };
        if key.ends_with("_file") || key.contains("_tls") || needs_rules {
            let (before, config) = (loaded.clone(), (*loaded.config).clone());
            let read = console.context.blocking(move || before.read_changed(config)).await;
            loaded =
                read.unwrap_or_else(|| Err("reading the files was aborted".to_owned())).map_err(invalid)?;
        }
        console.put_in_force(loaded).await.map_err(invalid)?;
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

pub(super) fn reload(console: Rc<Console>, _: String) -> CommandOutcome {
    Box::pin(async move {
        console.reload().await.map_err(|text| ClientError::new(Blame::Configuration, "F0000", text))
    })
}

pub(super) fn pause(console: Rc<Console>, argument: String) -> CommandOutcome {
    Box::pin(async move {
        let database = optional_database(&console, &argument)?;
        if console.lifecycle.phase() != Phase::Running {
            return Err(client_error::too_late());
        }
        if is_paused(&console, database.as_deref()) {
            return Err(invalid("already paused"));
        }
        console.set_paused(database.clone(), true).await;
        tracing::info!(database = argument, "PAUSE");
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

pub(super) fn resume(console: Rc<Console>, argument: String) -> CommandOutcome {
    Box::pin(async move {
        let database = optional_database(&console, &argument)?;
        if console.lifecycle.phase() != Phase::Running {
            return Err(client_error::too_late());
        }
        if let Some(name) = &database
            && !is_paused(&console, Some(name))
        {
            return Err(invalid(format!("database {name} is not paused")));
        }
        console.set_paused(database, false).await;
        tracing::info!(database = argument, "RESUME");
        Ok(())
    })
}

pub(super) fn disable(console: Rc<Console>, argument: String) -> CommandOutcome {
    Box::pin(async move { set_disabled(&console, &argument, true).await })
}

pub(super) fn enable(console: Rc<Console>, argument: String) -> CommandOutcome {
    Box::pin(async move { set_disabled(&console, &argument, false).await })
}

async fn set_disabled(console: &Console, argument: &str, disabled: bool) -> Result<(), ClientError> {
    let name = database(console, argument)?;
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

pub(super) fn reconnect(console: Rc<Console>, argument: String) -> CommandOutcome {
    Box::pin(async move {
        let database = optional_database(&console, &argument)?;
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

pub(super) fn wait_close(console: Rc<Console>, argument: String) -> CommandOutcome {
    Box::pin(async move {
        let database = optional_database(&console, &argument)?;
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

pub(super) fn kill(console: Rc<Console>, argument: String) -> CommandOutcome {
    Box::pin(async move {
        let database = optional_database(&console, &argument)?;
        console.set_paused(database.clone(), true).await;
        console
            .at_all(move |console| {
                for client in console.clients.list() {
                    let pool = client.pool.get();
                    let is_of =
                        |pool: &Rc<Pool>| database.as_deref().is_none_or(|name| name == &*pool.database.name);
                    if pool.is_some_and(is_of) {
                        client.kill(client_error::killed());
                    }
                }
                ready(())
            })
            .await;
        Ok(())
    })
}

pub(super) fn kill_client(console: Rc<Console>, argument: String) -> CommandOutcome {
    Box::pin(async move {
        let id: u64 = argument.parse().map_err(|_| invalid("usage: KILL_CLIENT id"))?;
        let found = console.at_all(move |console| {
            let client = console.clients.list().into_iter().find(|client| client.id == id);
            if let Some(client) = &client {
                client.kill(client_error::killed());
            }
            ready(client.is_some())
        });
        if found.await.contains(&true) { Ok(()) } else { Err(invalid(format!("no client with id {id}"))) }
    })
}

pub(super) fn shutdown(console: Rc<Console>, argument: String) -> CommandOutcome {
    Box::pin(async move {
        let phase = match argument.to_ascii_uppercase().as_str() {
            "" => Phase::Now,
            "WAIT_FOR_SERVERS" => Phase::WaitForServers,
            "WAIT_FOR_CLIENTS" => Phase::WaitForClients,
            _ => return Err(invalid("usage: SHUTDOWN [WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS]")),
        };
        tracing::info!(?phase, "SHUTDOWN");
        console.advance(phase);
        Ok(())
    })
}
