//! The SQL that gives a server the values of a client. Owns the order of the commands, and quoting.

use super::{CLIENT_ENCODING, ParameterIds, Parameters, ROLE, SESSION_AUTHORIZATION, ValueSet};

/// Settings whose values are lists of identifiers (GUC_LIST_QUOTE). SET takes each as an argument, and quotes it;
/// set_config takes the list as it is.
const LISTS: [&str; 4] =
    ["search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries"];

/// Settings that every user may set to every valid value.
const NEVER_REFUSED: [&str; 8] = [
    "application_name",
    "client_encoding",
    "DateStyle",
    "IntervalStyle",
    "TimeZone",
    "default_transaction_read_only",
    "search_path",
    "standard_conforming_strings",
];

/// The parts of what is sent.
#[derive(Default)]
struct Commands {
    encoding: String,
    others: String,
    authorization: String,
}

impl Parameters {
    /// The queries that change a server's values from `have` to `want`, in order; none if they are equal. The server
    /// decodes a query in the encoding set before it, so `client_encoding` is set first, in a query of its own. Values
    /// are set with the rights of `login_user`, who has logged in; the session authorization and the role follow.
    pub fn set_statements(&self, have: &ValueSet, want: &ValueSet, login_user: &str) -> Vec<String> {
        let role_of = |set: &ValueSet| self.role.and_then(|id| set.get(id)).map(str::to_owned);
        let (had_role, role_wanted) = (role_of(have), role_of(want));
        let Commands { encoding, mut others, mut authorization } = self.commands(have, want);
        if authorization.is_empty()
            && !others.is_empty()
            && let Some(other_user) =
                self.authorization.and_then(|id| want.get(id)).filter(|user| *user != login_user)
        {
            push_set(&mut authorization, SESSION_AUTHORIZATION, other_user);
        }
        let leaves_role = had_role.is_some()
            && (had_role != role_wanted || !others.is_empty() || !authorization.is_empty());
        if !authorization.is_empty() && !others.is_empty() {
            // This also resets the role.
            others.insert_str(0, "RESET session_authorization;");
        } else if leaves_role {
            others.insert_str(0, "RESET \"role\";");
        }
        others.push_str(&authorization);
        if let Some(name) = role_wanted.filter(|_| leaves_role || had_role.is_none()) {
            push_set(&mut others, ROLE, &name);
        }
        [encoding, others].into_iter().filter(|sql| !sql.is_empty()).collect()
    }

    /// True if a server that has these values may refuse to change them, although it has accepted `want` before.
    pub fn may_be_refused(&self, have: &ValueSet, want: &ValueSet) -> bool {
        let mut ids = have.iter().chain(want.iter()).map(|(id, _)| id);
        ids.any(|id| have.get(id) != want.get(id) && !NEVER_REFUSED.contains(&self.name(id)))
    }

    /// The commands for all values that differ, except the role.
    fn commands(&self, have: &ValueSet, want: &ValueSet) -> Commands {
        let mut commands = Commands::default();
        let mut ids = ParameterIds::default();
        have.iter().chain(want.iter()).for_each(|(id, _)| ids.insert(id));
        for id in ids.0 {
            if have.get(id) == want.get(id) {
                continue;
            }
            let sql = match self.name(id) {
                ROLE => continue,
                _ if id == CLIENT_ENCODING => &mut commands.encoding,
                SESSION_AUTHORIZATION => &mut commands.authorization,
                _ => &mut commands.others,
            };
            match want.get(id) {
                Some(want) => push_set(sql, self.name(id), want),
                // The client has not set it, and the server has the value of another client.
                None => {
                    sql.push_str("RESET ");
                    push_name(sql, self.name(id));
                    sql.push(';');
                }
            }
        }
        commands
    }

    /// The commands that set these values, whatever the server has.
    pub fn set_values(&self, values: &[(super::ParameterId, Box<str>)]) -> String {
        let mut sql = String::new();
        // The rights to set others depend on the last two.
        let order = |id: super::ParameterId| match self.name(id) {
            ROLE => 2,
            SESSION_AUTHORIZATION => 1,
            _ => 0,
        };
        let mut sorted: Vec<_> = values.iter().collect();
        sorted.sort_by_key(|(id, _)| order(*id));
        for (id, value) in sorted {
            push_set(&mut sql, self.name(*id), value);
        }
        sql
    }
}

/// Appends `SET name=…`.
fn push_set(sql: &mut String, name: &str, value: &str) {
    if LISTS.iter().any(|list| name.eq_ignore_ascii_case(list)) {
        sql.extend(["SELECT pg_catalog.set_config('", name, "',"]);
        push_literal(sql, value);
        sql.push_str(",false);");
        return;
    }
    sql.push_str("SET ");
    push_name(sql, name);
    sql.push('=');
    push_literal(sql, value);
    sql.push(';');
}

/// Appends the name of a setting. Those of extensions and applications have parts, which may be keywords.
fn push_name(sql: &mut String, name: &str) {
    if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') && name != ROLE {
        return sql.push_str(name);
    }
    for (at, part) in name.split('.').enumerate() {
        sql.push_str(if at > 0 { ".\"" } else { "\"" });
        sql.push_str(&part.replace('"', "\"\""));
        sql.push('"');
    }
}

/// Appends a column with the current value of a setting; NULL if there is none of this name.
pub fn push_current_setting(sql: &mut String, name: &str) {
    sql.push_str("pg_catalog.current_setting(");
    push_literal(sql, name);
    sql.push_str(",true)");
}

/// Appends a string in ASCII only: in some encodings (BIG5, SJIS, GBK, UHC, JOHAB) the second byte of a character may be
/// a backslash or, if misinterpreted, consume the closing quote.
pub fn push_literal(sql: &mut String, value: &str) {
    // The meaning of an escape string does not depend on standard_conforming_strings.
    let needs_escapes = value.contains('\\') || !value.is_ascii();
    sql.push_str(if needs_escapes { "E'" } else { "'" });
    for c in value.chars() {
        match c {
            '\'' | '\\' => sql.extend([c, c]),
            c if c.is_ascii() => sql.push(c),
            c => sql.push_str(&format!("\\U{:08X}", u32::from(c))),
        }
    }
    sql.push('\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_in_values_are_escaped() {
        let parameters = Parameters::new([]);
        let name = parameters.id("application_name").unwrap();
        let set = parameters.with(&parameters.empty(), name, r"a'; DROP TABLE t; -- \'");
        assert_eq!(
            parameters.set_statements(&parameters.empty(), &set, "app"),
            [r"SET application_name=E'a''; DROP TABLE t; -- \\''';"]
        );
    }

    #[test]
    fn the_encoding_is_set_first_and_other_values_are_ascii() {
        let parameters = Parameters::new([]);
        let name = parameters.id("application_name").unwrap();
        let set = parameters.with(&parameters.empty(), name, "表'");
        let set = parameters.with(&set, CLIENT_ENCODING, "SJIS");
        assert_eq!(
            parameters.set_statements(&parameters.empty(), &set, "app"),
            ["SET client_encoding='SJIS';", r"SET application_name=E'\U00008868''';"]
        );
    }

    #[test]
    fn the_session_authorization_is_set_last() {
        let parameters = Parameters::new(["IntervalStyle".to_owned()]);
        let id = |name: &str| parameters.id(name).unwrap();
        let app = parameters.with(&parameters.empty(), id("session_authorization"), "app");
        let other = parameters.with(&app, id("session_authorization"), "other");
        assert_eq!(parameters.set_statements(&app, &other, "app"), ["SET session_authorization='other';"]);
        let both = parameters.with(&other, id("IntervalStyle"), "iso_8601");
        let sql =
            "RESET session_authorization;SET IntervalStyle='iso_8601';SET session_authorization='other';";
        assert_eq!(parameters.set_statements(&app, &both, "app"), [sql]);
        // Also if the server has it already: `other` may have no right to set the value.
        assert_eq!(parameters.set_statements(&other, &both, "app"), [sql]);
        let plain = parameters.with(&app, id("IntervalStyle"), "iso_8601");
        assert_eq!(parameters.set_statements(&app, &plain, "app"), ["SET IntervalStyle='iso_8601';"]);
    }

    #[test]
    fn the_search_path_is_set_as_it_is() {
        let parameters = Parameters::new([]);
        let path = parameters.id("search_path").unwrap();
        for (value, literal) in [("\"$user\", public", "'\"$user\", public'"), ("", "''"), ("'a'", "'''a'''")]
        {
            let set = parameters.with(&parameters.empty(), path, value);
            let sql = format!("SELECT pg_catalog.set_config('search_path',{literal},false);");
            assert_eq!(parameters.set_statements(&parameters.empty(), &set, "app"), [sql], "{value}");
        }
    }

    #[test]
    fn the_role_is_set_after_all_other_values() {
        let parameters = Parameters::new([]);
        let role = parameters.followed(ROLE).unwrap();
        let tenant = parameters.followed("App.tenant").unwrap();
        let none = parameters.empty();
        let a = parameters.with(&parameters.with(&none, role, "a"), tenant, "1");
        let sql = "SET \"app\".\"tenant\"='1';SET \"role\"='a';";
        assert_eq!(parameters.set_statements(&none, &a, "app"), [sql]);
        let b = parameters.with(&a, tenant, "2");
        let sql = "RESET \"role\";SET \"app\".\"tenant\"='2';SET \"role\"='a';";
        assert_eq!(parameters.set_statements(&a, &b, "app"), [sql]);
        let sql = "RESET \"role\";RESET \"app\".\"tenant\";";
        assert_eq!(parameters.set_statements(&a, &none, "app"), [sql]);
    }
}
