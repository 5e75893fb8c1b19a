//! Startup parameters sorted: who, which database, which tracked values, which are refused. Owns the rules for names
//! in the startup packet; opens nothing.

use crate::client_error::{self, ClientError};
use crate::config::Settings;
use crate::context::Context;
use crate::parameters::ParameterId;

/// Protocol options begin like this; unknown ones are negotiated away (protocol 3.2).
const PROTOCOL_OPTION_PREFIX: &str = "_pq_.";

/// A sorted startup packet.
#[derive(Debug)]
pub(super) struct SessionRequest {
    pub(super) user: String,
    pub(super) database: String,
    /// Tracked parameters: position and value.
    pub(super) tracked: Vec<(ParameterId, String)>,
    pub(super) application_name: Option<String>,
    /// Protocol options we do not know.
    pub(super) unknown_options: Vec<String>,
}

/// Sorts startup parameters.
///
/// # Errors
/// No user, or a parameter that is neither tracked nor ignored.
pub(super) fn sort(
    context: &Context,
    settings: &Settings,
    parameters: Vec<(String, String)>,
) -> Result<SessionRequest, ClientError> {
    let mut wanted = SessionRequest {
        user: String::new(),
        database: String::new(),
        tracked: Vec::new(),
        application_name: None,
        unknown_options: Vec::new(),
    };
    for (name, value) in parameters {
        match name.as_str() {
            "user" => wanted.user = value,
            "database" => wanted.database = value,
            "options" => take_options(context, settings, &value, &mut wanted)?,
            _ if name.starts_with(PROTOCOL_OPTION_PREFIX) => wanted.unknown_options.push(name),
            _ => take(context, settings, &name, value, &mut wanted)?,
        }
    }
    if wanted.user.is_empty() {
        return Err(client_error::no_user());
    }
    if wanted.database.is_empty() {
        wanted.database.clone_from(&wanted.user);
    }
    Ok(wanted)
}

fn take(
    context: &Context,
    settings: &Settings,
    name: &str,
    value: String,
    wanted: &mut SessionRequest,
) -> Result<(), ClientError> {
    if let Some(id) = context.parameters.id(name) {
        if name.eq_ignore_ascii_case("application_name") {
            wanted.application_name = Some(value.clone());
        }
        wanted.tracked.push((id, value));
        return Ok(());
    }
    let ignored = settings.ignored_startup_parameters().any(|known| known.eq_ignore_ascii_case(name));
    if ignored { Ok(()) } else { Err(client_error::unknown_startup_parameter(name)) }
}

/// `options=-c name=value --name=value`, where a backslash keeps a space.
fn take_options(
    context: &Context,
    settings: &Settings,
    options: &str,
    wanted: &mut SessionRequest,
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
            return Err(client_error::unknown_startup_parameter("options"));
        };
        // What is ignored as a whole may still hold what is tracked.
        match take(context, settings, &name.replace('-', "_"), value.to_owned(), wanted) {
            Err(_) if ignored => {}
            taken => taken?,
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
    fn options_are_split_as_the_server_does() {
        assert_eq!(split_words(r"-c a=b\ c  --x=y"), ["-c", "a=b c", "--x=y"]);
        assert_eq!(split_words(r"-ca=\\"), [r"-ca=\"]);
    }
}
