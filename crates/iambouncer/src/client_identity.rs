//! Identities of clients as sent at login. Owns the texts, each combination once for all clients that share it.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;

/// Combinations without clients are dropped if there are more than this, or than twice those in use.
const MAX_UNUSED: usize = 1024;

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
pub struct ClientIdentities {
    known: RefCell<HashSet<Rc<ClientIdentity>>>,
    sweep_above: Cell<usize>,
}

impl Default for ClientIdentities {
    fn default() -> Self {
        Self { known: RefCell::default(), sweep_above: Cell::new(MAX_UNUSED) }
    }
}

impl ClientIdentities {
    /// The shared copy of a combination.
    pub fn share(&self, identity: ClientIdentity) -> Rc<ClientIdentity> {
        let mut known = self.known.borrow_mut();
        if let Some(shared) = known.get(&identity) {
            return shared.clone();
        }
        if known.len() >= self.sweep_above.get() {
            known.retain(|shared| Rc::strong_count(shared) > 1);
            // Otherwise, with many in use, each new one would scan all of them.
            self.sweep_above.set(MAX_UNUSED.max(2 * known.len()));
        }
        let shared = Rc::new(identity);
        known.insert(shared.clone());
        shared
    }

    /// The same client with another `application_name`.
    pub fn renamed(&self, identity: &ClientIdentity, application_name: &str) -> Rc<ClientIdentity> {
        self.share(ClientIdentity { application_name: application_name.into(), ..identity.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(client_identities.known.borrow().len() <= MAX_UNUSED);
        assert!(Rc::ptr_eq(&kept, &client_identities.share(named("kept".to_owned()))));
    }
}
