//! SHOW SETTINGS: the settings in force, with the origin of each value. Owns its table; SHOW CONFIG has PgBouncer's columns.

use super::columns::{Records, Table, shown, text};
use super::console::Console;
use super::show;
use crate::config::{Config, SettingInfo};
use std::sync::Arc;

/// A setting, its value, and the configuration.
pub(super) struct SettingOrigin {
    setting: &'static SettingInfo,
    value: Option<String>,
    config: Arc<Config>,
}

pub(super) static SETTINGS: Table<SettingOrigin> = Table {
    columns: &[
        text("key", |record| shown(record.setting.name)),
        text("value", |record| record.value.clone()),
        text("default", |record| shown(&record.setting.default_text)),
        text("changeable", |record| show::yes_or_no(record.setting.reloadable())),
        text("origin", |record| {
            shown(record.config.origin_of_setting(record.setting.name).unwrap_or("default"))
        }),
        text("description", |record| shown(record.setting.text)),
    ],
    records: Records::Here(settings),
};

fn settings(console: &Console) -> Vec<SettingOrigin> {
    let config = console.context.config();
    let records = show::settings(console).into_iter();
    records.map(|(setting, value)| SettingOrigin { setting, value, config: config.clone() }).collect()
}
