//! Environment variables: their names, and how they override settings.
//!
//! Owns the variable names. Reads the process environment only in [`ProcessEnvironment`].

use std::collections::BTreeMap;

use super::diagnostics::Diagnostic;
use super::model::Origin;
use super::nearest::nearest;
use super::settings_table::{Settings, displayed, table};

/// Prefix of the pooler's own variables.
pub const PREFIX: &str = "IAMBOUNCER_";

/// Names the configuration file, for the pooler and for the commands that control it.
pub const CONFIG_VARIABLE: &str = "IAMBOUNCER_CONFIG";

/// The pooler's variables that are neither settings nor connection values, with their descriptions; read by the command line.
pub const OTHER_VARIABLES: &[(&str, &str)] = &[
    (CONFIG_VARIABLE, "The configuration file, if none is named; also for `status`, `drain` and the like"),
    ("IAMBOUNCER_HTTP", "Where `healthcheck` and `wait` find the probes, ADDRESS:PORT"),
    (
        "IAMBOUNCER_LOG",
        "A filter of log lines, such as `debug` or `iambouncer::pool=trace`; instead of `verbose`",
    ),
];

/// A source of variables.
pub trait Environment {
    /// The value of a variable; `None` if unset or invalid UTF-8.
    fn get(&self, key: &str) -> Option<String>;
    /// The names of all variables.
    fn names(&self) -> Vec<String>;
}

/// The environment of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn get(&self, key: &str) -> Option<String> {
        std::env::var(key).ok()
    }
    fn names(&self) -> Vec<String> {
        std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect()
    }
}

/// A fixed set of variables.
#[derive(Clone, Default)]
pub struct MapEnvironment(BTreeMap<String, String>);

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for MapEnvironment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

impl Environment for MapEnvironment {
    fn get(&self, key: &str) -> Option<String> {
        self.0.get(key).cloned()
    }
    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }
}

/// A value of the connection in zero-config mode, and the variables that set it.
pub struct ConnectionValue {
    /// Its key.
    pub key: &'static str,
    /// The flag that sets it.
    pub flag: &'static str,
    /// Variables in order of precedence; the first is the pooler's, the others are in common use.
    pub variables: &'static [&'static str],
}

const fn value(key: &'static str, flag: &'static str, variables: &'static [&'static str]) -> ConnectionValue {
    ConnectionValue { key, flag, variables }
}

pub(super) const HOST: ConnectionValue =
    value("host", "ENDPOINT", &["IAMBOUNCER_DB_HOST", "RDS_HOST", "DB_HOST", "PGHOST", "RDSHOST"]);
pub(super) const PORT: ConnectionValue =
    value("port", "--port", &["IAMBOUNCER_DB_PORT", "DB_PORT", "PGPORT"]);
pub(super) const USER: ConnectionValue =
    value("user", "--user", &["IAMBOUNCER_DB_USER", "DB_USERNAME", "DB_USER", "PGUSER"]);
pub(super) const DATABASE: ConnectionValue =
    value("database", "--database", &["IAMBOUNCER_DB_NAME", "DB_NAME", "PGDATABASE"]);
pub(super) const PASSWORD: ConnectionValue =
    value("password", "", &["IAMBOUNCER_DB_PASSWORD", "DB_PASSWORD", "PGPASSWORD"]);
pub(super) const SERVER_AUTH: ConnectionValue =
    value("server_auth", "--server-auth", &["IAMBOUNCER_SERVER_AUTH", "AWS_IAM"]);
pub(super) const IAM_HOST: ConnectionValue = value("iam_host", "--iam-host", &["IAMBOUNCER_IAM_HOST"]);
pub(super) const IAM_PORT: ConnectionValue = value("iam_port", "--iam-port", &["IAMBOUNCER_IAM_PORT"]);
pub(super) const IAM_REGION: ConnectionValue =
    value("iam_region", "--region", &["IAMBOUNCER_IAM_REGION", "AWS_RDS_REGION"]);
pub(super) const REGION_FALLBACK: ConnectionValue =
    value("iam_region_fallback", "", &["AWS_REGION", "AWS_DEFAULT_REGION"]);
pub(super) const SECRET_ARN: ConnectionValue =
    value("secret_arn", "--secret-arn", &["IAMBOUNCER_SECRET_ARN", "DB_SECRET_ARN"]);
// Not AWS_PROFILE and AWS_ROLE_ARN, which the credential chain reads itself, with other meanings.
pub(super) const AWS_PROFILE: ConnectionValue =
    value("aws_profile", "--aws-profile", &["IAMBOUNCER_AWS_PROFILE"]);
pub(super) const AWS_ROLE_ARN: ConnectionValue =
    value("aws_role_arn", "--aws-role-arn", &["IAMBOUNCER_AWS_ROLE_ARN"]);
pub(super) const AWS_EXTERNAL_ID: ConnectionValue =
    value("aws_external_id", "--aws-external-id", &["IAMBOUNCER_AWS_EXTERNAL_ID"]);
pub(super) const AWS_ROLE_SESSION_NAME: ConnectionValue =
    value("aws_role_session_name", "--aws-role-session-name", &["IAMBOUNCER_AWS_ROLE_SESSION_NAME"]);

/// All connection values of zero-config mode.
pub static CONNECTION_VALUES: &[&ConnectionValue] = &[
    &HOST,
    &PORT,
    &USER,
    &DATABASE,
    &PASSWORD,
    &SERVER_AUTH,
    &IAM_HOST,
    &IAM_PORT,
    &IAM_REGION,
    &REGION_FALLBACK,
    &SECRET_ARN,
    &AWS_PROFILE,
    &AWS_ROLE_ARN,
    &AWS_EXTERNAL_ID,
    &AWS_ROLE_SESSION_NAME,
];

/// Variables of other images that set a setting in zero-config mode, and the setting.
pub(super) const SETTING_ALIASES: [(&str, &str); 2] =
    [("LISTEN_PORT", "listen_port"), ("UNIX_SOCKET_DIR", "unix_socket_dir")];

/// Applies the variables of other images; those of the pooler override them.
pub(super) fn overlay_aliases(
    settings: &mut Settings,
    origins: &mut Vec<Origin>,
    environment: &dyn Environment,
) -> Vec<Diagnostic> {
    // As with connection values, an empty one is not set.
    let given =
        SETTING_ALIASES.into_iter().filter(|(variable, _)| environment.get(variable) != Some(String::new()));
    given.filter_map(|row| set_from(row, settings, origins, environment)).collect()
}

/// Sets a setting from a variable, if it is given and Kubernetes did not make it for a Service. Returns an error of the value.
fn set_from(
    (variable, key): (&str, &str),
    settings: &mut Settings,
    origins: &mut Vec<Origin>,
    environment: &dyn Environment,
) -> Option<Diagnostic> {
    let value = environment.get(variable).filter(|value| !is_service_link(variable, value))?;
    match settings.set(key, &value) {
        Ok(()) => {
            record_setting(origins, key, &value, format!("from {variable}"));
            None
        }
        Err(error) => Some(Diagnostic::error(format!("{variable}: {error}"))),
    }
}

/// The settings with these keys as far as variables set them, of other images and of the pooler; all others have defaults.
///
/// # Errors
/// A value is invalid.
pub fn settings_from_variables(keys: &[&str], environment: &dyn Environment) -> Result<Settings, String> {
    let (mut settings, mut origins) = (Settings::default(), Vec::new());
    let mut found = overlay_aliases(&mut settings, &mut origins, environment);
    for row in table().iter().filter(|row| keys.contains(&row.name)) {
        found.extend(set_from((&row.variable(), row.name), &mut settings, &mut origins, environment));
    }
    found.into_iter().next().map_or(Ok(settings), |error| Err(error.message))
}

/// Applies all `IAMBOUNCER_<SETTING>` variables and reports unknown ones.
pub(super) fn overlay(
    settings: &mut Settings,
    origins: &mut Vec<Origin>,
    environment: &dyn Environment,
) -> Vec<Diagnostic> {
    let mut diagnostics = unknown_variables(environment);
    for row in table() {
        diagnostics.extend(set_from((&row.variable(), row.name), settings, origins, environment));
    }
    diagnostics
}

/// The pooler's connection variables have no effect with a file, which defines its databases itself.
pub(super) fn connection_variables_without_effect(environment: &dyn Environment) -> Option<Diagnostic> {
    let own =
        CONNECTION_VALUES.iter().flat_map(|value| value.variables).filter(|name| name.starts_with(PREFIX));
    let given: Vec<&str> = own.copied().filter(|name| environment.get(name).is_some()).collect();
    (!given.is_empty())
        .then(|| Diagnostic::warning(format!("no effect with a configuration file: {}", given.join(", "))))
}

/// Applies settings given as flags, which override everything else.
pub(super) fn overlay_flags(
    settings: &mut Settings,
    origins: &mut Vec<Origin>,
    flags: &[(String, String)],
) -> Vec<Diagnostic> {
    let mut diagnostics = Vec::new();
    for (key, value) in flags {
        match settings.set(key, value) {
            Ok(()) => record_setting(origins, key, value, format!("from --{}", key.replace('_', "-"))),
            Err(error) => {
                let help = error.help();
                diagnostics.push(Diagnostic { help, ..Diagnostic::error(error.to_string()) });
            }
        }
    }
    diagnostics
}

/// The key of a setting among the origins. The setting `user` must not replace the user on the server.
pub(super) fn origin_key(setting: &str) -> &str {
    if setting == "user" { "user (system)" } else { setting }
}

/// Records the source of a setting.
pub(super) fn record_setting(origins: &mut Vec<Origin>, key: &str, value: &str, source: String) {
    record(origins, origin_key(key), value, source);
}

/// Records the source of a value, replacing an earlier one.
pub(super) fn record(origins: &mut Vec<Origin>, key: &str, value: &str, source: String) {
    origins.retain(|origin| origin.key != key);
    origins.push(Origin { key: key.to_owned(), value: displayed(key, value), source });
}

fn unknown_variables(environment: &dyn Environment) -> Vec<Diagnostic> {
    let settings: Vec<String> = table().iter().map(super::SettingInfo::variable).collect();
    let connection = CONNECTION_VALUES.iter().flat_map(|value| value.variables).copied();
    let known: Vec<&str> = settings
        .iter()
        .map(String::as_str)
        .chain(connection.filter(|name| name.starts_with(PREFIX)))
        .chain(OTHER_VARIABLES.iter().map(|(name, _)| *name))
        .collect();
    let mut names = environment.names();
    names.retain(|name| name.starts_with(PREFIX) && !known.contains(&name.as_str()));
    names.retain(|name| !is_service_link(name, &environment.get(name).unwrap_or_default()));
    names.sort_unstable();
    names
        .into_iter()
        .map(|name| {
            let help = nearest(&name, known.iter().copied()).map(|near| format!("did you mean {near}?"));
            Diagnostic { help, ..Diagnostic::error(format!("unknown environment variable {name}")) }
        })
        .collect()
}

/// Kubernetes sets `NAME_SERVICE_HOST`, `NAME_PORT=tcp://…` and the like in every pod of a namespace with a Service
/// NAME. A Service named `iambouncer` must not prevent the pooler from starting.
fn is_service_link(name: &str, value: &str) -> bool {
    let scheme = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let port_part = name.split_once("_PORT_").is_some_and(|(_, rest)| {
        let mut parts = rest.split('_');
        let number = parts.next().is_some_and(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
        number && matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"))
    });
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || port_part
        || scheme && name.ends_with("_PORT")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(pairs: &[(&str, &str)]) -> (Settings, Vec<Origin>, Vec<Diagnostic>) {
        let environment: MapEnvironment = pairs.iter().copied().collect();
        let (mut settings, mut origins) = (Settings::default(), Vec::new());
        let diagnostics = overlay(&mut settings, &mut origins, &environment);
        (settings, origins, diagnostics)
    }

    #[test]
    fn every_setting_can_be_set_by_its_variable() {
        for row in table() {
            let (_, origins, diagnostics) = run(&[(&row.variable(), &row.default_text)]);
            assert_eq!(diagnostics, [], "{}", row.name);
            assert_eq!(origins[0].source, format!("from {}", row.variable()));
        }
    }

    #[test]
    fn unknown_variables_suggest_the_nearest() {
        let (_, _, diagnostics) =
            run(&[("IAMBOUNCER_LISTEN_PROT", "1"), ("OTHER", "x"), ("IAMBOUNCER_LOG", "debug")]);
        assert_eq!(diagnostics.len(), 1);
        assert_eq!(diagnostics[0].message, "unknown environment variable IAMBOUNCER_LISTEN_PROT");
        assert_eq!(diagnostics[0].help.as_deref(), Some("did you mean IAMBOUNCER_LISTEN_PORT?"));
    }

    #[test]
    fn errors_name_the_variable_of_an_invalid_value() {
        let (settings, _, diagnostics) = run(&[("IAMBOUNCER_LISTEN_PORT", "http")]);
        assert_eq!(settings.listen_port.first(), 6432);
        assert!(diagnostics[0].message.starts_with("IAMBOUNCER_LISTEN_PORT: "));
    }

    #[test]
    fn variables_of_a_kubernetes_service_are_ignored() {
        let (settings, _, diagnostics) = run(&[
            ("IAMBOUNCER_SERVICE_HOST", "10.0.0.1"),
            ("IAMBOUNCER_SERVICE_PORT", "6432"),
            ("IAMBOUNCER_SERVICE_PORT_POSTGRES", "6432"),
            ("IAMBOUNCER_PORT", "tcp://10.0.0.1:6432"),
            ("IAMBOUNCER_PORT_6432_TCP", "tcp://10.0.0.1:6432"),
            ("IAMBOUNCER_PORT_6432_TCP_ADDR", "10.0.0.1"),
            ("IAMBOUNCER_LISTEN_PORT", "tcp://10.0.0.1:6432"),
        ]);
        assert_eq!(diagnostics, []);
        assert_eq!(settings, Settings::default());
    }
}
