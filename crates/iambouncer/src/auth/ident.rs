//! User name maps in PostgreSQL's syntax (`pg_ident.conf`): `MAP SYSTEM-NAME DATABASE-USER`. Owns parsing and
//! matching; callers define system names: ARNs of roles, names in client certificates, accounts of the host.
//!
//! As in PostgreSQL, a system name that begins with `/` is a regular expression, and `\\1` in the database user is
//! replaced by its first group; `all` as a database user matches every user, and a database user that begins with `/`
//! is a regular expression, too. Unlike in PostgreSQL, an expression must match the whole name: ARNs share long
//! prefixes.

use regex_lite::Regex;

/// Longest map file, in bytes.
pub const MAX_FILE_BYTES: usize = 1024 * 1024;
/// Maximum number of lines.
const MAX_LINES: usize = 10_000;

/// A map file.
#[derive(Debug, Clone, Default)]
pub struct IdentMap(Vec<IdentLine>);

#[derive(Debug, Clone)]
struct IdentLine {
    map: String,
    system: System,
    user: User,
}

#[derive(Debug, Clone)]
enum System {
    Name(String),
    Pattern(Regex),
}

#[derive(Debug, Clone)]
enum User {
    All,
    Name(String),
    Pattern(Regex),
    /// With `\\1` in place of the group.
    Template(String),
}

/// An error in a map file, with its line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct IdentError {
    /// Line number, from 1.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
}

impl IdentMap {
    /// Reads a file's text.
    ///
    /// # Errors
    /// The first invalid line.
    pub fn parse(text: &str) -> Result<Self, IdentError> {
        let mut lines = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let wrong = |reason: String| IdentError { line: at + 1, reason };
            if at >= MAX_LINES {
                return Err(wrong(format!("more than {MAX_LINES} lines")));
            }
            let words = words(line).map_err(wrong)?;
            match &words[..] {
                [] => {}
                [map, system, user] => {
                    let system = System::parse(system).map_err(wrong)?;
                    let user = User::parse(user, &system).map_err(wrong)?;
                    lines.push(IdentLine { map: map.text.clone(), system, user });
                }
                _ => {
                    return Err(wrong(format!(
                        "has {} words, not 3: MAP SYSTEM-NAME DATABASE-USER",
                        words.len()
                    )));
                }
            }
        }
        Ok(Self(lines))
    }

    /// True if there is a map of this name.
    pub fn has_map(&self, map: &str) -> bool {
        self.0.iter().any(|line| line.map == map)
    }

    /// True if `map` allows `system` to log in as `user`.
    pub fn allows(&self, map: &str, system: &str, user: &str) -> bool {
        self.0.iter().any(|line| line.map == map && line.allows(system, user))
    }
}

impl IdentLine {
    fn allows(&self, system: &str, user: &str) -> bool {
        let group = match &self.system {
            System::Name(name) if name == system => None,
            System::Pattern(pattern) => match pattern.captures(system) {
                Some(found) => found.get(1).map(|group| group.as_str().to_owned()),
                None => return false,
            },
            System::Name(_) => return false,
        };
        match &self.user {
            User::All => true,
            User::Name(name) => name == user,
            User::Pattern(pattern) => pattern.is_match(user),
            User::Template(template) => {
                group.is_some_and(|group| template.replacen("\\1", &group, 1) == user)
            }
        }
    }
}

impl System {
    fn parse(word: &Word) -> Result<Self, String> {
        match word.text.strip_prefix('/') {
            Some(pattern) => whole(pattern).map(Self::Pattern),
            None => Ok(Self::Name(word.text.clone())),
        }
    }
}

impl User {
    fn parse(word: &Word, system: &System) -> Result<Self, String> {
        let text = &word.text;
        if text == "all" && !word.is_quoted {
            return Ok(Self::All);
        }
        if text.contains("\\1") {
            return match system {
                System::Pattern(pattern) if pattern.captures_len() > 1 => Ok(Self::Template(text.clone())),
                _ => Err("\\1 needs a system name that is an expression with a group".to_owned()),
            };
        }
        match text.strip_prefix('/').filter(|_| !word.is_quoted) {
            Some(pattern) => whole(pattern).map(Self::Pattern),
            None => Ok(Self::Name(text.clone())),
        }
    }
}

/// An expression that must match the whole name.
fn whole(pattern: &str) -> Result<Regex, String> {
    Regex::new(&format!("^(?:{pattern})$"))
        .map_err(|error| format!("\"/{pattern}\" is not a valid expression: {error}"))
}

struct Word {
    text: String,
    is_quoted: bool,
}

/// Splits a line into words separated by spaces, possibly in double quotes (`""` is a quote), up to `#`.
fn words(line: &str) -> Result<Vec<Word>, String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() && !rest.starts_with('#') {
        let mut word = Word { text: String::new(), is_quoted: rest.starts_with('"') };
        let mut in_quotes = false;
        let mut end = rest.len();
        let mut chars = rest.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' if in_quotes && chars.peek().is_some_and(|(_, next)| *next == '"') => {
                    chars.next();
                    word.text.push('"');
                }
                '"' => in_quotes = !in_quotes,
                c if !in_quotes && (c.is_whitespace() || c == '#') => {
                    end = at;
                    break;
                }
                c => word.text.push(c),
            }
        }
        if in_quotes {
            return Err("unterminated quoted string".to_owned());
        }
        words.push(word);
        rest = rest[end..].trim_start();
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLE: &str = "arn:aws:iam::123456789012:role/orders";

    fn allows(text: &str, system: &str, user: &str) -> bool {
        IdentMap::parse(text).unwrap().allows("iam", system, user)
    }

    #[test]
    fn names_are_taken_literally() {
        let text =
            format!("# roles\niam {ROLE} app # the shop\n\niam {ROLE} \"two words\"\nother {ROLE} admin\n");
        assert!(allows(&text, ROLE, "app") && allows(&text, ROLE, "two words"));
        assert!(!allows(&text, ROLE, "admin") && !allows(&text, ROLE, "App"));
        assert!(!allows(&text, "arn:aws:iam::123456789012:role/orders2", "app"));
    }

    #[test]
    fn expressions_match_the_whole_name_and_provide_a_group() {
        let text = r"iam /arn:aws:iam::123456789012:role/svc-([a-z]+) \1_rw";
        assert!(allows(text, "arn:aws:iam::123456789012:role/svc-orders", "orders_rw"));
        assert!(!allows(text, "arn:aws:iam::123456789012:role/svc-orders", "orders"));
        assert!(!allows(text, "arn:aws:iam::123456789012:role/svc-orders2", "orders_rw"));
        assert!(!allows(text, "xarn:aws:iam::123456789012:role/svc-orders", "orders_rw"));
    }

    #[test]
    fn all_matches_every_user_unless_quoted() {
        assert!(allows(&format!("iam {ROLE} all"), ROLE, "any_user"));
        assert!(!allows(&format!("iam {ROLE} \"all\""), ROLE, "any_user"));
        assert!(allows(&format!("iam {ROLE} /app_.*"), ROLE, "app_1"));
        assert!(!allows(&format!("iam {ROLE} /app_.*"), ROLE, "x_app_1"));
    }

    #[test]
    fn errors_report_their_line() {
        let error = |text: &str| IdentMap::parse(text).unwrap_err();
        assert_eq!(error("iam a b\niam a").line, 2);
        assert!(error("iam a b c").reason.contains("4 words"));
        assert!(error("iam \"a b").reason.contains("unterminated"));
        assert!(error("iam /( b").reason.contains("not a valid expression"));
        assert!(error(r"iam a \1").reason.contains("group"));
        assert!(error(r"iam /a.* \1").reason.contains("group"));
    }
}
