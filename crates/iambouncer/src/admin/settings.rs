//! SET. Owns how one changed setting is checked and activated.

use super::console::Console;
use super::table::CommandOutcome;
use super::{syntax_error, words};
use crate::client_error::{ClientError, messages};
use crate::config::{AuthType, SettingError, Settings};
use crate::context::ConfigFiles;
use std::rc::Rc;
use std::sync::Arc;

/// True if a change of this setting makes files necessary that it names, or that the method of authentication needs.
fn needs_files(settings: &Settings, key: &str) -> bool {
    let needs_rules = match key {
        "auth_type" => matches!(settings.auth_type, AuthType::Hba | AuthType::Ldap),
        // They may need TLS.
        "auth_ldap_options" => settings.auth_type == AuthType::Ldap,
        _ => false,
    };
    key.ends_with("_file") || key.contains("_tls") || needs_rules
}

/// Why a setting is not changed.
fn failed(reason: impl Into<String>, help: Option<String>) -> ClientError {
    let error = messages::SET_FAILED.error().detail(reason.into());
    match help {
        Some(help) => error.hint(help),
        None => error,
    }
}

pub(super) fn set(console: Rc<Console>, argument: String) -> CommandOutcome {
    Box::pin(async move {
        let (key, value) =
            words::assignment(&argument).ok_or_else(|| syntax_error(&format!("SET {argument}")))?;
        let loaded = loop {
            let before = (*console.context.loaded()).clone();
            let (base, name, value) = (before.clone(), key.clone(), value.clone());
            // Checks read all database lines, of which there may be thousands.
            let changed = console.context.blocking(move || change(&base, &name, &value)).await;
            let changed = changed.unwrap_or_else(|| Err(failed("the change was aborted", None)))?;
            // Otherwise another change took effect meanwhile, which this one would undo.
            if console.context.loaded().is_same(&before) {
                break changed;
            }
        };
        console.put_in_force(loaded).await.map_err(|text| failed(text, None))?;
        tracing::info!(event = "setting_changed", "SET {key}");
        Ok(())
    })
}

/// A configuration with one changed setting. Blocks.
fn change(before: &ConfigFiles, key: &str, value: &str) -> Result<ConfigFiles, ClientError> {
    let info = crate::config::table().iter().find(|setting| setting.name == key);
    if info.is_some_and(|setting| !setting.reloadable()) {
        return Err(failed(format!("{key} cannot be changed without a restart"), None));
    }
    let mut config = (*before.config).clone();
    config.settings.set(key, value).map_err(|error: SettingError| failed(error.to_string(), error.help()))?;
    config.record_set(key, value);
    if let Some(error) = crate::config::first_new_error(&before.config, &config) {
        return Err(failed(error.message, error.help));
    }
    // Files are read only if the setting needs them: others must not apply file changes before a RELOAD.
    if needs_files(&config.settings, key) {
        return before.read_changed(config).map_err(|text| failed(text, None));
    }
    Ok(ConfigFiles { config: Arc::new(config), ..before.clone() })
}
