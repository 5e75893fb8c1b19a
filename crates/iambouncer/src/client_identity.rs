//! Identities of clients as sent at login. Owns the texts, each combination once for all clients that share it.

use crate::shared_values::SharedValues;
use std::rc::Rc;

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
