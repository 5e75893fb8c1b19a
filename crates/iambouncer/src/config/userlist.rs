//! The `auth_file`: one `"user" "password or hash"` per line.
//!
//! Never includes a secret in an error, and does not interpret hashes.

use std::collections::HashMap;
use std::sync::Arc;

use super::diagnostics::{Diagnostic, Span, clamp};
use super::secret::Secret;
use crate::quoted_text;

/// Longest user name, in bytes.
pub const MAX_USER_BYTES: usize = 128;
/// Longest password or hash, in bytes; a client can send as much.
pub const MAX_PASSWORD_BYTES: usize = 64 * 1024;

/// The entry of one user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserEntry {
    /// Clear text, `md5…` or `SCRAM-SHA-256$…`; may be empty.
    pub password: Secret,
}

impl UserEntry {
    /// True if the password is an IAM token, which a script has written: it expires after 15 minutes, so it is not used.
    pub fn is_iam_token(&self) -> bool {
        let text = self.password.expose();
        text.contains("Action=connect") && text.contains("X-Amz-Signature=")
    }
}

/// The names of users whose passwords are IAM tokens, in order.
pub fn users_with_tokens(users: &UserList) -> Vec<&str> {
    let mut names: Vec<&str> =
        users.iter().filter(|(_, entry)| entry.is_iam_token()).map(|(user, _)| user.as_str()).collect();
    names.sort_unstable();
    names
}

/// All users by name.
pub type UserList = HashMap<String, UserEntry>;

/// Parses the text of an `auth_file`. All invalid lines are reported; for a repeated user the last line is used.
pub fn parse(file: &str, text: &str) -> Result<UserList, Vec<Diagnostic>> {
    let file: Arc<str> = file.into();
    let mut users = UserList::new();
    let mut diagnostics = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (index, line) in text.lines().enumerate() {
        match parse_line(line) {
            Ok(None) => {}
            Ok(Some((user, entry))) => {
                users.insert(user, entry);
            }
            Err((offset, message)) => {
                let column = clamp(line.get(..offset).map_or(0, |before| before.chars().count()) + 1);
                let span = Span { file: Arc::clone(&file), line: clamp(index + 1), column, length: 1 };
                let help = "a line is \"user\" \"password\"; write a quote inside as two quotes";
                diagnostics.push(Diagnostic::error(message).at(span).help(help));
            }
        }
    }
    if diagnostics.is_empty() { Ok(users) } else { Err(diagnostics) }
}

type UserListError = (usize, &'static str);

fn parse_line(line: &str) -> Result<Option<(String, UserEntry)>, UserListError> {
    let start = line.len() - line.trim_start().len();
    if line[start..].is_empty() || line[start..].starts_with(';') {
        return Ok(None);
    }
    let (user, after_user) =
        quoted(line, start).map_err(|offset| (offset, "expected a user name in quotes"))?;
    let gap = line[after_user..].len() - line[after_user..].trim_start().len();
    let (password, _) =
        quoted(line, after_user + gap).map_err(|offset| (offset, "expected a password in quotes"))?;
    if user.expose().is_empty() {
        return Err((start, "the user name is empty"));
    }
    if user.expose().len() > MAX_USER_BYTES {
        return Err((start, "the user name is longer than 128 bytes"));
    }
    if password.expose().len() > MAX_PASSWORD_BYTES {
        return Err((after_user + gap, "the password is longer than 65536 bytes"));
    }
    Ok(Some((user.expose().to_owned(), UserEntry { password })))
}

/// Parses a quoted text at `start`; returns it and the position after it, or the position of the error. Both texts
/// are handled as secrets, so that no copy of a password is left in memory.
fn quoted(line: &str, start: usize) -> Result<(Secret, usize), usize> {
    let Some(body) = line[start..].strip_prefix('"') else { return Err(start) };
    let (inside, rest) = quoted_text::split(body, '"').ok_or(start)?;
    Ok((Secret::new(inside.replace("\"\"", "\"")), line.len() - rest.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_plain_md5_scram_and_doubled_quotes() {
        let text = "; comment\r\n\"ann\" \"se\"\"cret\" rest is dropped\r\n\n  \"b\"\"ob\"\t\"md5abc\"\n\"c\" \"\"\n";
        let users = parse("users.txt", text).expect("valid");
        assert_eq!(users["ann"].password.expose(), "se\"cret");
        assert_eq!(users["b\"ob"].password.expose(), "md5abc");
        assert_eq!(users["c"].password.expose(), "");
        assert!(!format!("{users:?}").contains("md5abc"));
    }

    #[test]
    fn errors_have_the_line_but_not_the_secret() {
        let text = "\"ann\" \"hunter2\nbob \"hunter2\"\n\"eve\" hunter2\n\"\" \"hunter2\"\n";
        let faults = parse("users.txt", text).expect_err("all faulty");
        let places: Vec<_> =
            faults.iter().filter_map(|f| f.span.as_ref()).map(|s| (s.line, s.column)).collect();
        assert_eq!(places, [(1, 7), (2, 1), (3, 7), (4, 1)]);
        assert!(!super::super::ConfigReport::from(faults).to_string().contains("hunter2"));
    }

    #[test]
    fn tokens_are_recognized() {
        let token = "db.example:5432/?Action=connect&DBUser=a&X-Amz-Date=20240115T123456Z&X-Amz-Signature=0";
        let users = parse("f", &format!("\"b\" \"{token}\"\n\"c\" \"Action=connect\"\n\"a\" \"{token}\"\n"));
        assert_eq!(users_with_tokens(&users.expect("valid")), ["a", "b"]);
    }

    #[test]
    fn lengths_are_bounded() {
        let line = format!("\"{}\" \"x\"", "u".repeat(MAX_USER_BYTES + 1));
        assert!(parse("f", &line).is_err());
        let line = format!("\"u\" \"{}\"", "x".repeat(MAX_PASSWORD_BYTES + 1));
        assert!(parse("f", &line).is_err());
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "(\\PC|[\"; \r\n\t]){0,60}") {
            let _ = parse("f", &text);
        }

        #[test]
        fn quoted_names_round_trip(user in "[^\r\n\0]{1,30}") {
            let users = parse("f", &format!("\"{}\" \"x\"", user.replace('"', "\"\""))).expect("quoted");
            proptest::prop_assert!(users.contains_key(&user));
        }
    }
}
