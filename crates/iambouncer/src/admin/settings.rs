//! SET. Owns how one changed setting is checked and activated.

use super::console::Console;
use super::table::CommandOutcome;
use super::{syntax_error, words};
use crate::client_error::{ClientError, messages};
use crate::config::{AuthType, SettingError, Settings};
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
        let key = key.as_str();
        let mut loaded = (*console.context.loaded()).clone();
        let info = crate::config::table().iter().find(|setting| setting.name == key);
        if info.is_some_and(|setting| !setting.reloadable()) {
            return Err(failed(format!("{key} cannot be changed without a restart"), None));
        }
        let config = Arc::make_mut(&mut loaded.config);
        config
            .settings
            .set(key, &value)
            .map_err(|error: SettingError| failed(error.to_string(), error.help()))?;
        config.record_set(key, &value);
        if let Some(error) = crate::config::first_new_error(&console.context.config(), &loaded.config) {
            return Err(failed(error.message, error.help));
        }
        // Files are read only if the setting needs them: others must not apply file changes before a RELOAD.
        if needs_files(&loaded.config.settings, key) {
            let (before, config) = (loaded.clone(), (*loaded.config).clone());
            let read = console.context.blocking(move || before.read_changed(config)).await;
            loaded = read
                .unwrap_or_else(|| Err("reading the files was aborted".to_owned()))
                .map_err(|text| failed(text, None))?;
        }
        console.put_in_force(loaded).await.map_err(|text| failed(text, None))?;
        tracing::info!(event = "setting_changed", "SET {key}");
        Ok(())
    })
}
