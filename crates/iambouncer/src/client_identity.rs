//! Identities of clients as sent at login. Owns the texts, each combination once for all clients that share it.

use crate::shared_values::SharedValues;
use std::rc::Rc;

/// The kind of a replication connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Replication {
    /// An ordinary connection.
    #[default]
    No,
    /// `replication=true`.
    Physical,
    /// `replication=database`.
    Logical,
}

impl Replication {
    /// As PostgreSQL reads it.
    pub fn parse(value: &str) -> Option<Self> {
        let is_prefix_of = |word: &str| !value.is_empty() && word.starts_with(&value.to_ascii_lowercase());
        match value {
            "database" => Some(Self::Logical),
            "1" | "on" => Some(Self::Physical),
            "0" | "of" | "off" => Some(Self::No),
            _ if is_prefix_of("true") || is_prefix_of("yes") => Some(Self::Physical),
            _ if is_prefix_of("false") || is_prefix_of("no") => Some(Self::No),
            _ => None,
        }
    }

    /// In the startup packet to a server, and in the log.
    pub fn startup_value(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Physical => "yes",
            Self::Logical => "database",
        }
    }

    /// On the console.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::No => "none",
            Self::Physical => "physical",
            Self::Logical => "logical",
        }
    }
}

/// One combination. Most clients of a pool have the same one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ClientIdentity {
    /// User name of the login.
    pub user: Box<str>,
    /// Requested database.
    pub database: Box<str>,
    /// `application_name` of the client.
    pub application_name: Box<str>,
    /// TLS version and suite, or empty.
    pub tls: Box<str>,
    /// Whether it replicates.
    pub replication: Replication,
}

/// All combinations used on this worker.
#[derive(Default)]
pub struct ClientIdentities(SharedValues<ClientIdentity>);

impl ClientIdentities {
    /// The shared copy of a combination.
    pub fn share(&self, identity: ClientIdentity) -> Rc<ClientIdentity> {
        self.0.share(identity)
    }

    /// The same client with another `application_name`.
    pub fn renamed(&self, identity: &ClientIdentity, application_name: &str) -> Rc<ClientIdentity> {
        self.share(ClientIdentity { application_name: application_name.into(), ..identity.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared_values::MAX_UNUSED;

    fn named(application_name: String) -> ClientIdentity {
        ClientIdentity {
            user: "ann".into(),
            application_name: application_name.into(),
            ..ClientIdentity::default()
        }
    }

    #[test]
    fn clients_with_the_same_identity_share_it() {
        let client_identities = ClientIdentities::default();
        let first = client_identities.share(named("psql".to_owned()));
        assert!(Rc::ptr_eq(&first, &client_identities.share(named("psql".to_owned()))));
        let second = client_identities.renamed(&first, "cron");
        assert_eq!((&*second.user, &*second.application_name), ("ann", "cron"));
        assert!(Rc::ptr_eq(&first, &client_identities.renamed(&second, "psql")));
    }

    #[test]
    fn unused_identities_are_dropped() {
        let client_identities = ClientIdentities::default();
        let kept = client_identities.share(named("kept".to_owned()));
        for n in 0..10 * MAX_UNUSED {
            client_identities.share(named(n.to_string()));
        }
        assert!(client_identities.0.count() <= MAX_UNUSED);
        assert!(Rc::ptr_eq(&kept, &client_identities.share(named("kept".to_owned()))));
    }
}
