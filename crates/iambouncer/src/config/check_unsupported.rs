//! Settings without effect on which an operator would rely. They are errors: a pooler that ignored them would be
//! trusted for something it does not do.

use super::accounts::account_name;
use super::build::ValuePlaces;
use super::diagnostics::Diagnostic;
use super::model::{Config, Database};
use super::settings::SettingStatus;
use super::settings_table::{Settings, table};

const HELP: &str = "remove it";

/// Errors about unsupported settings, keys and sections.
pub(super) fn check_unsupported(config: &Config, places: &ValuePlaces, found: &mut Vec<Diagnostic>) {
    let settings = &config.settings;
    for row in table().iter().filter(|row| row.status == SettingStatus::Unsupported) {
        let is_default = settings.get_text(row.name).as_ref() == Some(&row.default_text);
        if !is_default && !is_harmless(row.name, settings) {
            let error = Diagnostic::error(format!("{} is not supported yet", row.name));
            found.push(error.at(places.setting(row.name)).help(HELP));
        }
    }
    for database in config.all_databases() {
        for key in unsupported_keys(database) {
            let error = format!("{key} on the line of database \"{}\" is not supported yet", database.name);
            found.push(Diagnostic::error(error).at(places.database(&database.name, key)).help(HELP));
        }
    }
    if let Some(id) = config.peers.keys().next() {
        let error = Diagnostic::error("[peers] is not supported yet: cancel requests are not forwarded");
        found.push(error.at(places.peer(*id)).help("remove the section"));
    }
}

/// True for values that change nothing, or whose purpose is fulfilled otherwise.
fn is_harmless(name: &str, settings: &Settings) -> bool {
    match name {
        "user" => {
            let own = account_name(rustix::process::geteuid().as_raw());
            own.is_some_and(|user| user == settings.user)
        }
        // Log lines go to the file.
        "syslog" => !settings.logfile.is_empty(),
        _ => false,
    }
}

fn unsupported_keys(database: &Database) -> impl Iterator<Item = &'static str> {
    let keys = [
        ("auth_user", database.auth_user.is_some()),
        ("auth_query", database.auth_query.is_some()),
        ("auth_dbname", database.auth_dbname.is_some()),
    ];
    keys.into_iter().filter(|(_, is_set)| *is_set).map(|(key, _)| key)
}
