//! Settings without effect on which an operator would rely. They are errors: a pooler that ignored them would be
//! trusted for something it does not do.

use super::build::ValuePlaces;
use super::diagnostics::Diagnostic;
use super::model::Config;
use super::settings::SettingStatus;
use super::settings_table::table;

const HELP: &str = "remove it";

/// Errors about unsupported settings, keys and sections.
pub(super) fn check_unsupported(config: &Config, places: &ValuePlaces, found: &mut Vec<Diagnostic>) {
    let settings = &config.settings;
    for row in table().iter().filter(|row| row.status == SettingStatus::Unsupported) {
        let is_default = settings.get_text(row.name).as_ref() == Some(&row.default_text);
        if !is_default {
            let error = Diagnostic::error(format!("{} is not supported yet", row.name));
            found.push(error.at(places.setting(row.name)).help(HELP));
        }
    }
}
