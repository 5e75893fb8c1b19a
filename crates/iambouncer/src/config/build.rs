//! Builds the model from the entries of a file: each entry goes to its setting, database, user or peer.
//!
//! Owns unknown keys, invalid values and warnings about unsupported ones. Checks that involve more than one entry are
//! in `check`.

use std::collections::BTreeMap;

use super::check::check;
use super::connstr;
use super::diagnostics::{Diagnostic, Span};
use super::environment::{
    Environment, connection_variables_without_effect, overlay, overlay_flags, record_setting,
};
use super::ini::{IniDocument, IniEntry, IniSection};
use super::keys::{DATABASE_KEYS, KeyInfo, PEER_KEYS, USER_KEYS};
use super::model::{Config, Database, Host, Peer, UserOverrides};
use super::nearest::nearest;
use super::settings::SettingStatus;
use super::settings_table::table;

/// Name of the console's database, reserved in `[databases]`.
pub const CONSOLE_DATABASE: &str = "pgbouncer";
const MAX_PEER_ID: u16 = 16383;

/// The position of each entry in the file. Settings have an empty owner; a database is owned by its name.
#[derive(Default)]
pub(super) struct ValuePlaces(BTreeMap<(String, String), Span>);

impl ValuePlaces {
    pub(super) fn setting(&self, key: &str) -> Option<Span> {
        self.0.get(&(String::new(), key.to_owned())).cloned()
    }

    /// The key of a database line, or the start of the line if the key is absent.
    pub(super) fn database(&self, name: &str, key: &str) -> Option<Span> {
        let owner = owner("database", name);
        self.0.get(&(owner.clone(), key.to_owned())).or_else(|| self.0.get(&(owner, String::new()))).cloned()
    }

    pub(super) fn peer(&self, id: u16) -> Option<Span> {
        self.0.get(&(owner("peer", &id.to_string()), String::new())).cloned()
    }

    fn note(&mut self, owner: &str, key: &str, span: Span) -> Option<Span> {
        self.0.insert((owner.to_owned(), key.to_owned()), span)
    }
}

fn owner(kind: &str, name: &str) -> String {
    format!("{kind} {name}")
}

/// Builds the model from a file, overridden by variables, overridden by flags. It is valid only if no diagnostic is
/// an error.
pub fn build(
    document: &IniDocument,
    environment: &dyn Environment,
    flags: &[(String, String)],
) -> (Config, Vec<Diagnostic>) {
    let mut builder = Builder::default();
    for entry in &document.entries {
        match entry.section {
            IniSection::Pooler => builder.setting(entry),
            IniSection::Databases => builder.database(entry),
            IniSection::Users => builder.user(entry),
            IniSection::Peers => builder.peer(entry),
        }
    }
    let Builder { mut config, mut diagnostics, places, .. } = builder;
    diagnostics.extend(overlay(&mut config.settings, &mut config.origins, environment));
    diagnostics.extend(connection_variables_without_effect(environment));
    diagnostics.extend(overlay_flags(&mut config.settings, &mut config.origins, flags));
    default_hosts(&mut config);
    default_users(&mut config);
    diagnostics.extend(check(&config, &places));
    diagnostics.extend(ignored_settings(&config));
    let mut all = document.diagnostics.clone();
    all.append(&mut diagnostics);
    (config, all)
}

#[derive(Default)]
struct Builder {
    config: Config,
    diagnostics: Vec<Diagnostic>,
    places: ValuePlaces,
}

impl Builder {
    fn setting(&mut self, entry: &IniEntry) {
        let origin = format!("{}:{}", entry.key_span.file, entry.key_span.line);
        match self.config.settings.set(&entry.key, &entry.value) {
            Ok(()) => record_setting(&mut self.config.origins, &entry.key, &entry.value, origin),
            Err(error) => {
                let unknown = matches!(error, super::SettingError::Unknown { .. });
                let span = if unknown { &entry.key_span } else { &entry.value_span };
                let found = Diagnostic::error(error.to_string()).at(span.clone());
                self.diagnostics.push(Diagnostic { help: error.help(), ..found });
            }
        }
        self.note("", &entry.key, &entry.key_span);
    }

    fn database(&mut self, entry: &IniEntry) {
        if entry.key == CONSOLE_DATABASE {
            let reason = format!("the database name \"{CONSOLE_DATABASE}\" is reserved for the console");
            return self.diagnostics.push(Diagnostic::error(reason).at(entry.key_span.clone()));
        }
        let mut database = Database::new(&*entry.key);
        self.pairs(entry, "database", DATABASE_KEYS, &mut database);
        if entry.key == "*" {
            self.config.fallback = Some(database);
        } else {
            self.config.databases.insert(entry.key.clone(), database);
        }
    }

    fn user(&mut self, entry: &IniEntry) {
        let mut user = UserOverrides::default();
        self.pairs(entry, "user", USER_KEYS, &mut user);
        self.config.users.insert(entry.key.clone(), user);
    }

    fn peer(&mut self, entry: &IniEntry) {
        let mut peer = Peer { host: None, port: 6432, pool_size: None };
        self.pairs(entry, "peer", PEER_KEYS, &mut peer);
        if peer.host.is_none() {
            self.diagnostics.push(Diagnostic::error("a peer needs host=").at(entry.key_span.clone()));
        }
        match entry.key.parse::<u16>() {
            Ok(id) if (1..=MAX_PEER_ID).contains(&id) => {
                self.config.peers.insert(id, peer);
            }
            _ => {
                let reason = format!("a peer's name is its number from 1 to {MAX_PEER_ID}");
                self.diagnostics.push(Diagnostic::error(reason).at(entry.key_span.clone()));
            }
        }
    }

    /// Splits the value of an entry and stores each pair. Messages omit values of unknown keys: a misspelled
    /// `password` is still a password.
    fn pairs<T>(&mut self, entry: &IniEntry, kind: &str, rows: &'static [KeyInfo<T>], target: &mut T) {
        let owner = owner(kind, &entry.key);
        self.note(&owner, "", &entry.key_span);
        let at = |bytes| entry.value_span.subspan(&entry.value, bytes);
        let pairs = match connstr::parse(&entry.value) {
            Ok(pairs) => pairs,
            Err(error) => {
                return self.diagnostics.push(Diagnostic::error(error.message).at(at(error.bytes)));
            }
        };
        for pair in pairs {
            let Some(row) = rows.iter().find(|row| row.name == pair.key) else {
                let known = rows.iter().map(|row| row.name);
                let help = nearest(&pair.key, known.clone()).map_or_else(
                    || format!("known keys: {}", known.collect::<Vec<_>>().join(", ")),
                    |name| format!("did you mean \"{name}\"?"),
                );
                let reason = format!("unknown key \"{}\" on a {kind} line", pair.key);
                self.diagnostics.push(Diagnostic::error(reason).at(at(pair.key_bytes)).help(help));
                continue;
            };
            if let Err(reason) = (row.store)(target, &pair.value) {
                let message = format!("{}: value \"{}\" {reason}", pair.key, pair.value.as_str());
                self.diagnostics.push(Diagnostic::error(message).at(at(pair.value_bytes)));
            }
            self.note(&owner, row.name, &at(pair.key_bytes));
        }
    }

    fn note(&mut self, owner: &str, key: &str, span: &Span) {
        if let Some(first) = self.places.note(owner, key, span.clone()) {
            // A later line replaces an earlier one as a whole, so its keys are not repetitions.
            self.places
                .0
                .retain(|(known, sub_key), _| !key.is_empty() || known != owner || sub_key.is_empty());
            let what = if key.is_empty() { owner } else { key };
            let message = format!("\"{what}\" is set twice; this value is used");
            let found = Diagnostic::warning(message).at(span.clone()).help(format!("first set at {first}"));
            self.diagnostics.push(found);
        }
    }
}

/// Without a host, a database is on the local server behind the UNIX socket.
fn default_hosts(config: &mut Config) {
    let directory = config.settings.unix_socket_dir.clone();
    if directory.is_empty() {
        return;
    }
    for database in config.databases.values_mut().chain(config.fallback.as_mut()) {
        if database.host.is_empty() {
            database.host.push(Host::Unix(directory.clone().into()));
        }
    }
}

/// Clients of a line with a secret use the secret's user on the server. That name may change with a rotation, so the
/// pool is named after the secret.
fn default_users(config: &mut Config) {
    for database in config.databases.values_mut().chain(config.fallback.as_mut()) {
        if let (None, Some(arn)) = (&database.user, &database.secret_arn) {
            database.user = Some(arn.name().to_owned());
        }
    }
}

/// One warning for all settings that have no effect.
pub(super) fn ignored_settings(config: &Config) -> Option<Diagnostic> {
    let ignored = table().iter().filter(|row| {
        let changed = config.settings.get_text(row.name).as_ref() != Some(&row.default_text);
        let is_given = config.is_given(row.name);
        row.status == SettingStatus::Ignored && changed && is_given
    });
    let names: Vec<&str> = ignored.map(|row| row.name).collect();
    (!names.is_empty()).then(|| Diagnostic::warning(format!("ignored, not applicable: {}", names.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::super::{MapEnvironment, PoolMode, ini};
    use super::*;

    fn read_with(
        text: &str,
        variables: &[(&str, &str)],
        flags: &[(&str, &str)],
    ) -> (Config, Vec<Diagnostic>) {
        let document = ini::parse("pgbouncer.ini", &|_: &str| Ok(text.to_owned()));
        let environment: MapEnvironment = variables.iter().copied().collect();
        let flags: Vec<_> =
            flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        build(&document, &environment, &flags)
    }

    fn errors(text: &str) -> Vec<String> {
        let (_, found) = read_with(text, &[], &[]);
        found.into_iter().filter(Diagnostic::is_error).map(|error| error.message).collect()
    }

    const HEAD: &str = "[pgbouncer]\nauth_type = trust\n";

    #[test]
    fn flags_override_variables_which_override_the_file() {
        let text = format!(
            "{HEAD}default_pool_size = 1\nmin_pool_size = 1\nmax_client_conn = 1\n[databases]\n* =\n"
        );
        let (config, found) = read_with(
            &text,
            &[("IAMBOUNCER_DEFAULT_POOL_SIZE", "2"), ("IAMBOUNCER_MIN_POOL_SIZE", "2")],
            &[("min_pool_size", "3")],
        );
        assert_eq!(found, []);
        let settings = &config.settings;
        assert_eq!((settings.max_client_conn, settings.default_pool_size, settings.min_pool_size), (1, 2, 3));
        let source =
            |key: &str| config.origins.iter().find(|origin| origin.key == key).map(|o| o.source.as_str());
        assert_eq!(source("max_client_conn"), Some("pgbouncer.ini:5"));
        assert_eq!(source("default_pool_size"), Some("from IAMBOUNCER_DEFAULT_POOL_SIZE"));
        assert_eq!(source("min_pool_size"), Some("from --min-pool-size"));
    }

    #[test]
    fn databases_users_and_fallback_are_read() {
        let text = format!(
            "{HEAD}[databases]\napp = host=db1,db2 port=5433 dbname='a b' user=u password='p''w' pool_mode=transaction\n\
             * = host=/run/pg\n[users]\nann = pool_size=3\n[peers]\n1 = host=other\n"
        );
        let (config, found) = read_with(&text, &[], &[]);
        let texts: Vec<_> = found.iter().map(|found| found.message.as_str()).collect();
        assert_eq!(texts, ["[peers] has no effect without peer_id"]);
        let app = &config.databases["app"];
        assert_eq!((app.host.len(), app.port, app.pool_mode), (2, 5433, Some(PoolMode::Transaction)));
        assert_eq!(app.password.as_ref().map(super::super::Secret::expose), Some("p'w"));
        assert!(!format!("{config:?}").contains("p'w"));
        assert_eq!(config.database_for("other").map(|db| db.server_dbname("other")), Some("other"));
        assert_eq!(config.users["ann"].pool_size, Some(3));
        assert_eq!(config.peers[&1].host, Some(Host::Tcp("other".to_owned())));
    }

    #[test]
    fn all_errors_are_found_at_once_with_their_positions() {
        let text = format!(
            "{HEAD}defualt_pool_size = 2\nlisten_port = x\n[databases]\npgbouncer = host=a\na = hots=b port=0\nb = host\n\
             [users]\nu = pool_sizes=1\n[peers]\n0 = port=1\n"
        );
        let (_, found) = read_with(&text, &[], &[]);
        let lines: Vec<_> = found.iter().filter_map(|f| f.span.as_ref()).map(ToString::to_string).collect();
        let expected = ["3:1", "4:15", "6:1", "7:5", "7:17", "8:5", "10:5", "12:1", "12:1"];
        assert_eq!(lines, expected.map(|place| format!("pgbouncer.ini:{place}")), "{found:#?}");
        assert_eq!(found[3].help.as_deref(), Some("did you mean \"host\"?"));
    }

    #[test]
    fn missing_host_means_the_unix_socket() {
        let (config, _) = read_with(&format!("{HEAD}[databases]\na =\n"), &[], &[]);
        assert_eq!(config.databases["a"].host, [Host::Unix("/tmp".into())]);
        let none = format!("{HEAD}listen_addr = ::1\nunix_socket_dir =\n[databases]\na =\n");
        assert_eq!(errors(&none), ["database \"a\" has no host, and unix_socket_dir is empty"]);
    }

    #[test]
    fn settings_without_effect_are_reported_once() {
        let text =
            format!("{HEAD}pkt_buf = 8192\ndns_nxdomain_ttl = 15\nsuspend_timeout = 5\n[databases]\n* =\n");
        let (_, found) = read_with(&text, &[], &[]);
        let texts: Vec<_> = found.iter().map(|warning| warning.message.as_str()).collect();
        assert_eq!(texts, ["ignored, not applicable: pkt_buf, suspend_timeout"]);
    }

    #[test]
    fn connection_variables_have_no_effect_with_a_file() {
        let text = format!("{HEAD}[databases]\n* =\n");
        let (_, found) = read_with(&text, &[("IAMBOUNCER_DB_HOST", "h"), ("DB_HOST", "h")], &[]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].message, "no effect with a configuration file: IAMBOUNCER_DB_HOST");
    }

    #[test]
    fn repetitions_are_reported() {
        let text = format!(
            "{HEAD}pool_mode = session\npool_mode = transaction\n[databases]\na = port=1\na = port=2\n"
        );
        let (config, found) = read_with(&text, &[], &[]);
        assert_eq!(config.databases["a"].port, 2);
        let texts: Vec<_> = found.iter().map(|warning| warning.message.as_str()).collect();
        assert_eq!(
            texts,
            [
                "\"pool_mode\" is set twice; this value is used",
                "\"database a\" is set twice; this value is used"
            ]
        );
    }
}
