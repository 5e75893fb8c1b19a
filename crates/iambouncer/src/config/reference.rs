//! The reference page of all settings and keys, generated from the tables.
//!
//! Adds no facts of its own: errors must be fixed in the tables.

use super::environment::{CONNECTION_VALUES, OTHER_VARIABLES, PREFIX, SETTING_ALIASES};
use super::keys::{DATABASE_KEYS, KeyInfo, PEER_KEYS, USER_KEYS};
use super::settings::{AppliedBy, SettingStatus};
use super::settings_table::table;

/// The text of `docs/settings.md`.
pub fn settings_markdown() -> String {
    let mut page = String::from(
        "# Settings\n\n\
         <!-- Generated from the tables in crates/iambouncer/src/config by `make doc`. Do not edit. -->\n\n\
         Precedence: flag, then environment, then file, then default. Times are in seconds, fractions\n\
         allowed, and 0 means off.\n\n\
         ## `[pgbouncer]`, also spelled `[iambouncer]`\n\n",
    );
    page.push_str(&format!(
        "Every setting can be set by a variable: `{PREFIX}` and the name in upper case, such as\n\
         `IAMBOUNCER_DEFAULT_POOL_SIZE`.\n\n\
         | Setting | Default | Change | State | Description |\n|---|---|---|---|---|\n"
    ));
    for row in table() {
        let default =
            if row.default_text.is_empty() { "(empty)".to_owned() } else { code(&row.default_text) };
        let change = row.applied.as_str();
        let text = cell(row.text);
        page.push_str(&format!(
            "| `{}` | {default} | {change} | {} | {text} |\n",
            row.name,
            state(row.status)
        ));
    }
    page.push_str(
        "\nA setting is changed by RELOAD, or by SET until the next RELOAD. When that takes effect:\n\n\
         | Change | Takes effect |\n|---|---|\n",
    );
    for applied in AppliedBy::ALL {
        page.push_str(&format!("| {} | {} |\n", applied.as_str(), applied.effect()));
    }
    keys(
        &mut page,
        "[databases]",
        "`NAME = key=value key='value with spaces'`; the name `*` is for all others.",
        DATABASE_KEYS,
    );
    keys(&mut page, "[users]", "`NAME = key=value`", USER_KEYS);
    keys(&mut page, "[peers]", "`NUMBER = key=value`", PEER_KEYS);
    connection_values(&mut page);
    page
}

fn keys<T>(page: &mut String, section: &str, shape: &str, rows: &[KeyInfo<T>]) {
    page.push_str(&format!("\n## `{section}`\n\n{shape}\n\n| Key | State | Description |\n|---|---|---|\n"));
    for row in rows {
        page.push_str(&format!("| `{}` | {} | {} |\n", row.name, state(row.status), cell(row.text)));
    }
}

fn connection_values(page: &mut String) {
    page.push_str(
        "\n## Without a file\n\n\
         The first one given is used. Empty variables are ignored. `AWS_IAM` is true or false.\n\
         `iam_region_fallback` is used only if the host name contains no region.\n\n\
         | Value | Flag | Variables |\n|---|---|---|\n",
    );
    for value in CONNECTION_VALUES {
        let flag = if value.flag.is_empty() { String::new() } else { code(value.flag) };
        let variables: Vec<String> = value.variables.iter().map(|name| code(name)).collect();
        page.push_str(&format!("| {} | {flag} | {} |\n", value.key, variables.join(", ")));
    }
    for (alias, key) in SETTING_ALIASES {
        let own = format!("{PREFIX}{}", key.to_uppercase());
        let flag = code(&format!("--set {key}=…"));
        page.push_str(&format!("| {key} | {flag} | {}, {} |\n", code(&own), code(alias)));
    }
    page.push_str("\n## Other variables\n\n| Variable | Description |\n|---|---|\n");
    for (name, text) in OTHER_VARIABLES {
        page.push_str(&format!("| {} | {} |\n", code(name), cell(text)));
    }
}

fn state(status: SettingStatus) -> &'static str {
    match status {
        SettingStatus::Working => "supported",
        SettingStatus::Ignored => "ignored",
    }
}

fn code(text: &str) -> String {
    format!("`{}`", cell(text))
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_listed() {
        let page = settings_markdown();
        for row in table() {
            let start = format!("| `{}` | ", row.name);
            let line = page.lines().find(|line| line.starts_with(&start)).expect(row.name);
            assert!(line.contains(&format!("| {} |", row.applied.as_str())), "{line}");
        }
    }
}
