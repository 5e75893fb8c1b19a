//! What a tree of PostgreSQL's parser says about the session. Owns which nodes change it; knows no text.

use serde_json::{Map, Value};
use sql::{Feature, Features, SessionChanges};

/// `CURSOR_OPT_HOLD`.
const HOLD: u64 = 0x20;
/// Settings that end with the transaction.
const OF_TRANSACTION: [&str; 3] =
    ["transaction_isolation", "transaction_read_only", "transaction_deferrable"];
/// Keywords that may stand for the name of a setting, but no setting has this name: the server refuses the statement.
const NO_SETTINGS: [&str; 8] =
    ["session", "local", "transaction", "time", "names", "schema", "constraints", "xml"];
const CHARACTERISTICS: [&str; 3] =
    ["default_transaction_isolation", "default_transaction_read_only", "default_transaction_deferrable"];

/// One thing that a text may change.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fact {
    Sets(String),
    Resets(String),
    ResetsAll,
    DiscardsAll,
    Begins(Feature),
    Ends(Feature),
    /// A setting whose name is not a literal.
    SetsComputed,
    Copies,
    Calls,
}

/// All that a text may change.
pub(crate) struct Tree(Vec<Fact>);

impl Tree {
    /// What the statements of a tree change.
    pub(crate) fn of(tree: &Value) -> Self {
        let mut facts = Self(Vec::new());
        for statement in tree["stmts"].as_array().into_iter().flatten() {
            facts.add_statement(&statement["stmt"]);
        }
        facts
    }

    /// True if nothing changes.
    pub(crate) fn is_empty(&self) -> bool {
        let matters = |fact: &&Fact| !matches!(fact, Fact::Ends(_) | Fact::Copies);
        !self.0.iter().any(|fact| matters(&fact))
    }

    /// What is not covered by what was found in the text.
    pub(crate) fn missing_in(&self, changes: &SessionChanges) -> Option<String> {
        let knows_nothing =
            Features::of(&[Feature::UnknownCode, Feature::UnreadableText, Feature::ManySettings]);
        let is_pinned = !changes.begins.and(knows_nothing).is_empty();
        let is_covered = |fact: &Fact| match fact {
            Fact::Sets(name) => {
                has(&changes.settings, name) || is_pinned || changes.begins.contains(Feature::ComputedSetting)
            }
            Fact::Resets(name) => has(&changes.settings, name) || changes.resets_all || is_pinned,
            Fact::ResetsAll => changes.resets_all,
            Fact::DiscardsAll => changes.discards_all(),
            Fact::Begins(feature) => changes.begins.contains(*feature) || is_pinned,
            Fact::Ends(feature) => changes.ends.contains(*feature),
            Fact::SetsComputed => changes.begins.contains(Feature::ComputedSetting) || is_pinned,
            Fact::Copies => changes.has_copy || *changes == SessionChanges::default(),
            Fact::Calls => changes.has_call,
        };
        self.0.iter().find(|fact| !is_covered(fact)).map(|fact| format!("{fact:?}"))
    }

    fn add_statement(&mut self, statement: &Value) {
        let Some((kind, node)) = statement.as_object().and_then(|object| object.iter().next()) else {
            return;
        };
        match kind.as_str() {
            "VariableSetStmt" => return self.add_set(node),
            // What it contains runs later, or with EXECUTE.
            "PrepareStmt" => return self.0.push(Fact::Begins(Feature::SqlPrepared)),
            "DiscardStmt" => match node["target"].as_str() {
                Some("DISCARD_ALL") => self.0.push(Fact::DiscardsAll),
                Some("DISCARD_TEMP") => self.0.push(Fact::Ends(Feature::TemporaryObject)),
                _ => {}
            },
            "ListenStmt" => self.0.push(Fact::Begins(Feature::Listen)),
            "UnlistenStmt" => self.0.push(Fact::Ends(Feature::Listen)),
            "DeallocateStmt" => self.0.push(Fact::Ends(Feature::SqlPrepared)),
            "ClosePortalStmt" => self.0.push(Fact::Ends(Feature::HoldableCursor)),
            "DropStmt" => self.0.push(Fact::Ends(Feature::TemporaryObject)),
            "LoadStmt" => self.0.push(Fact::Begins(Feature::LoadedLibrary)),
            "CallStmt" => self.0.push(Fact::Calls),
            "CopyStmt" => self.0.push(Fact::Copies),
            "DeclareCursorStmt" if node["options"].as_u64().unwrap_or_default() & HOLD != 0 => {
                self.0.push(Fact::Begins(Feature::HoldableCursor));
            }
            // Its text is not parsed here.
            "DoStmt" => return,
            _ => {}
        }
        self.add_expressions(node);
    }

    fn add_set(&mut self, node: &Value) {
        if node["is_local"].as_bool() == Some(true) {
            return;
        }
        let name = node["name"].as_str().unwrap_or_default().to_ascii_lowercase();
        if OF_TRANSACTION.contains(&name.as_str()) || NO_SETTINGS.contains(&name.as_str()) {
            return;
        }
        match node["kind"].as_str().unwrap_or("VAR_SET_VALUE") {
            "VAR_RESET_ALL" => self.0.push(Fact::ResetsAll),
            "VAR_SET_MULTI" if name == "session characteristics" => {
                self.0.extend(CHARACTERISTICS.map(|name| Fact::Sets(name.to_owned())));
            }
            "VAR_SET_MULTI" => {}
            "VAR_RESET" | "VAR_SET_DEFAULT" if name == "seed" => {}
            "VAR_RESET" | "VAR_SET_DEFAULT" => self.0.push(Fact::Resets(name)),
            _ if name == "seed" => self.0.push(Fact::Begins(Feature::RandomSeed)),
            _ => self.0.push(Fact::Sets(name)),
        }
    }

    /// Calls and relations, wherever they are.
    fn add_expressions(&mut self, value: &Value) {
        match value {
            Value::Array(all) => all.iter().for_each(|value| self.add_expressions(value)),
            Value::Object(object) => self.add_object(object),
            _ => {}
        }
    }

    fn add_object(&mut self, object: &Map<String, Value>) {
        let ends_with_transaction = ["oncommit", "onCommit"]
            .iter()
            .any(|key| object.get(*key).and_then(Value::as_str) == Some("ONCOMMIT_DROP"));
        for (key, value) in object {
            match key.as_str() {
                "FuncCall" => self.add_call(value),
                "relation" | "rel" if ends_with_transaction => continue,
                _ => {}
            }
            self.add_expressions(value);
        }
        if object.get("relpersistence").and_then(Value::as_str) == Some("t") {
            self.0.push(Fact::Begins(Feature::TemporaryObject));
        }
    }

    fn add_call(&mut self, call: &Value) {
        let string = |node: &Value| node["String"]["sval"].as_str().unwrap_or_default().to_owned();
        let last = call["funcname"].as_array().and_then(|parts| parts.last().map(string)).unwrap_or_default();
        let feature = match last.as_str() {
            "set_config" => return self.add_set_config(call),
            "lastval" | "currval" => Feature::SequenceValue,
            "setseed" => Feature::RandomSeed,
            "dblink_connect" | "dblink_connect_u" => Feature::RemoteConnection,
            "pg_create_logical_replication_slot" | "pg_replication_origin_session_setup" => {
                Feature::ReplicationSlot
            }
            "pg_advisory_lock" | "pg_advisory_lock_shared" | "pg_try_advisory_lock" => Feature::AdvisoryLock,
            "pg_advisory_unlock" | "pg_advisory_unlock_all" => {
                return self.0.push(Fact::Ends(Feature::AdvisoryLock));
            }
            _ => return,
        };
        self.0.push(Fact::Begins(feature));
    }

    fn add_set_config(&mut self, call: &Value) {
        let constant = |at: usize| {
            let mut argument = &call["args"][at];
            while !argument["TypeCast"].is_null() {
                argument = &argument["TypeCast"]["arg"];
            }
            &argument["A_Const"]
        };
        let is_local = constant(2)["boolval"]["boolval"].as_bool() == Some(true);
        match constant(0)["sval"]["sval"].as_str() {
            _ if is_local => {}
            Some(name) if OF_TRANSACTION.contains(&name.to_ascii_lowercase().as_str()) => {}
            Some(name) if name.eq_ignore_ascii_case("seed") => {
                self.0.push(Fact::Begins(Feature::RandomSeed));
            }
            Some(name) => self.0.push(Fact::Sets(name.to_ascii_lowercase())),
            None => self.0.push(Fact::SetsComputed),
        }
    }
}

fn has(names: &[Box<str>], name: &str) -> bool {
    names.iter().any(|known| **known == *name)
}
