//! Sorts startup parameters: user, database, tracked values, refused names. Owns the rules for names in the startup
//! packet; opens nothing.

use crate::admin;
use crate::client_error::{self, ClientError};
use crate::client_identity::Replication;
use crate::config::{SessionState, Settings};
use crate::context::Context;
use crate::parameters::ParameterId;

/// Prefix of protocol options; the response rejects unknown ones (protocol 3.2).
const PROTOCOL_OPTION_PREFIX: &str = "_pq_.";

/// A sorted startup packet.
#[derive(Debug)]
pub(super) struct SessionRequest {
    pub(super) user: String,
    pub(super) database: String,
    /// Tracked parameters: position and value.
    pub(super) tracked: Vec<(ParameterId, String)>,
    /// Others that follow the client: they get numbers once it has logged in.
    pub(super) followed: Vec<(String, String)>,
    pub(super) application_name: Option<String>,
    pub(super) replication: Replication,
    /// `options` of a replication connection, which its server reads.
    pub(super) options: Option<String>,
    /// Protocol options that the pooler does not support.
    pub(super) unknown_options: Vec<String>,
}

/// Sorts startup parameters.
///
/// # Errors
/// No user, or a parameter that is neither followed nor ignored.
pub(super) fn sort(
    context: &Context,
    settings: &Settings,
    parameters: Vec<(String, String)>,
) -> Result<SessionRequest, ClientError> {
    let mut request = SessionRequest {
        user: String::new(),
        database: String::new(),
        tracked: Vec::new(),
        followed: Vec::new(),
        application_name: None,
        replication: replication_of(&parameters)?,
        options: None,
        unknown_options: Vec::new(),
    };
    let is_console = is_for_console(&parameters);
    for (name, value) in parameters {
        match name.as_str() {
            "user" => request.user = value,
            "database" => request.database = value,
            "replication" => {}
            "options" if request.replication != Replication::No => request.options = Some(value),
            "options" => take_options(context, settings, &value, &mut request)?,
            _ if name.starts_with(PROTOCOL_OPTION_PREFIX) => request.unknown_options.push(name),
            // Exporters send extra_float_digits.
            _ if is_console && admin::is_ignored(&name) && name != "application_name" => {}
            _ => take(context, settings, &name, value, &mut request)?,
        }
    }
    if request.user.is_empty() {
        return Err(client_error::no_user());
    }
    if request.database.is_empty() {
        request.database.clone_from(&request.user);
    }
    Ok(request)
}

fn is_for_console(parameters: &[(String, String)]) -> bool {
    let value = |key: &str| {
        let found = parameters.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str()).unwrap_or_default()
    };
    match value("database") {
        "" => value("user") == admin::DATABASE,
        database => database == admin::DATABASE,
    }
}

fn replication_of(parameters: &[(String, String)]) -> Result<Replication, ClientError> {
    let mut given = parameters.iter().rev().filter(|(name, _)| name == "replication");
    let Some((_, value)) = given.next() else { return Ok(Replication::No) };
    Replication::parse(value).ok_or_else(|| client_error::invalid_replication(value))
}

fn take(
    context: &Context,
    settings: &Settings,
    name: &str,
    value: String,
    request: &mut SessionRequest,
) -> Result<(), ClientError> {
    // As in PgBouncer 1.26.1, this also holds for tracked parameters.
    if settings.ignored_startup_parameters().any(|known| known.eq_ignore_ascii_case(name)) {
        return Ok(());
    }
    if let Some(id) = context.parameters.id(name) {
        if name.eq_ignore_ascii_case("application_name") {
            request.application_name = Some(value.clone());
        }
        request.tracked.push((id, value));
        return Ok(());
    }
    if settings.session_state == SessionState::Follow && is_setting_name(name) {
        request.followed.push((name.to_owned(), value));
        return Ok(());
    }
    Err(client_error::unknown_startup_parameter(name))
}

/// True for what may be the name of a setting.
fn is_setting_name(name: &str) -> bool {
    let is_of_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '$');
    name.starts_with(|c: char| c.is_alphabetic() || c == '_') && name.chars().all(is_of_name)
}

/// `options=-c name=value --name=value`, where a backslash keeps a space.
fn take_options(
    context: &Context,
    settings: &Settings,
    options: &str,
    request: &mut SessionRequest,
) -> Result<(), ClientError> {
    let ignored = settings.ignored_startup_parameters().any(|known| known.eq_ignore_ascii_case("options"));
    let words = split_words(options);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let assignment = match word.strip_prefix("-c") {
            Some("") => words.next().map(String::as_str),
            Some(rest) => Some(rest),
            None => word.strip_prefix("--"),
        };
        let Some((name, value)) = assignment.and_then(|text| text.split_once('=')) else {
            if ignored {
                continue;
            }
            return Err(client_error::unsupported_options());
        };
        // Ignored options may still contain tracked parameters.
        match take(context, settings, &name.replace('-', "_"), value.to_owned(), request) {
            Err(_) if ignored => {}
            Err(_) => return Err(client_error::unknown_option(name)),
            Ok(()) => {}
        }
    }
    Ok(())
}

fn split_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => word.extend(chars.next()),
            c if c.is_ascii_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replication_is_a_switch_or_database() {
        for (value, expected) in [
            ("database", Some(Replication::Logical)),
            ("TRUE", Some(Replication::Physical)),
            ("y", Some(Replication::Physical)),
            ("1", Some(Replication::Physical)),
            ("off", Some(Replication::No)),
            ("n", Some(Replication::No)),
            ("", None),
            ("o", None),
            ("databases", None),
        ] {
            assert_eq!(Replication::parse(value), expected, "{value}");
        }
    }

    #[test]
    fn options_are_split_as_the_server_does() {
        assert_eq!(split_words(r"-c a=b\ c  --x=y"), ["-c", "a=b c", "--x=y"]);
        assert_eq!(split_words(r"-ca=\\"), [r"-ca=\"]);
    }
}
