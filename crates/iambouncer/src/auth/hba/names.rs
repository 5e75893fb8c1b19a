//! Lists of databases or users in an HBA line. Owns the keywords and which names a list contains.

use std::collections::BTreeSet;

/// Names, and keywords that stand for names.
#[derive(Debug, Clone, Default)]
pub(super) struct HbaNames {
    has_all: bool,
    has_sameuser: bool,
    has_replication: bool,
    names: BTreeSet<String>,
}

impl HbaNames {
    /// True if the name is in the list. `counterpart` is the user for a database and the database for a user.
    pub(super) fn contains(&self, name: &str, counterpart: &str) -> bool {
        self.has_all || (self.has_sameuser && name == counterpart) || self.names.contains(name)
    }

    /// True if the list is for physical replication.
    pub(super) fn has_replication(&self) -> bool {
        self.has_replication
    }

    /// Adds an unquoted word, which may be a keyword.
    pub(super) fn add_word(&mut self, word: &str) -> Result<(), String> {
        match word {
            "all" => self.has_all = true,
            "sameuser" => self.has_sameuser = true,
            "replication" => self.has_replication = true,
            "samerole" | "samegroup" => return Err(format!("{word} is not supported")),
            _ if word.starts_with('+') => return Err("groups (+name) are not supported".to_owned()),
            _ => self.add_name(word),
        }
        Ok(())
    }

    /// Adds a name as it is.
    pub(super) fn add_name(&mut self, name: &str) {
        self.names.insert(name.to_owned());
    }
}
