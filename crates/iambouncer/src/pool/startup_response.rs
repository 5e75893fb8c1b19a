//! The startup response for a pool's clients. Owns the parameters that the newest server reported, and the last
//! response built from them; the client side builds the response.

use super::shared::{ReportedParameters, SharedPool};
use crate::config::Database;
use crate::parameters::{ParameterId, Parameters, SESSION_AUTHORIZATION, ValueSet};
use std::cell::RefCell;
use std::rc::Rc;

/// A startup response without AuthenticationOk and cancel key: the same for all clients that request the same values.
pub struct StartupResponse {
    /// Requested values of tracked parameters.
    pub requested: Vec<(ParameterId, String)>,
    /// All tracked values, with the requested ones applied.
    pub parameters: ValueSet,
    /// The parameters.
    pub messages: Vec<u8>,
}

/// As whom the servers of a pool log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LoginUsers {
    /// All as one user.
    One,
    /// As the user in a secret, which a rotation may change.
    OfSecret,
}

impl LoginUsers {
    /// From the database line.
    pub(super) fn of(line: &Database) -> Self {
        if line.secret_arn.is_some() { Self::OfSecret } else { Self::One }
    }
}

/// Parameters reported by the newest server; every client receives them.
pub struct ServerParameters {
    /// All parameters, in the server's order.
    pub reports: ReportedParameters,
    /// The tracked ones among them.
    pub parameters: ValueSet,
    last: RefCell<Option<Rc<StartupResponse>>>,
}

impl ServerParameters {
    /// From the reports of a server that has logged in.
    pub(super) fn new(tracked: &Parameters, reports: ReportedParameters, users: LoginUsers) -> Rc<Self> {
        let mut parameters = tracked.empty();
        // The user of one server must not be set on another: a rotation may have changed the user.
        let is_same_everywhere = |name: &str| users == LoginUsers::One || name != SESSION_AUTHORIZATION;
        for (name, value) in &*reports {
            if let Some(id) = tracked.id(name).filter(|_| is_same_everywhere(name)) {
                parameters = tracked.with(&parameters, id, value);
            }
        }
        Rc::new(Self { reports, parameters, last: RefCell::default() })
    }

    /// The startup response for these values: the last one, or a new one.
    pub fn startup_response(
        &self,
        requested: &[(ParameterId, String)],
        make: impl FnOnce(&Self) -> StartupResponse,
    ) -> Rc<StartupResponse> {
        let last = self.last.borrow().clone();
        match last {
            Some(startup_response) if startup_response.requested == requested => startup_response,
            _ => self.last.borrow_mut().insert(Rc::new(make(self))).clone(),
        }
    }
}

/// The server parameters that this worker's clients receive.
#[derive(Default)]
pub(super) struct KnownParameters {
    /// `None` until this worker has needed them.
    newest: RefCell<Option<Rc<ServerParameters>>>,
}

impl KnownParameters {
    /// Those of this worker's newest server, or else of another worker's.
    pub(super) fn get(
        &self,
        tracked: &Parameters,
        shared: &SharedPool,
        users: LoginUsers,
    ) -> Option<Rc<ServerParameters>> {
        if self.newest.borrow().is_none() {
            let reports = shared.server_parameters()?;
            *self.newest.borrow_mut() = Some(ServerParameters::new(tracked, reports, users));
        }
        self.newest.borrow().clone()
    }

    /// A server has logged in.
    pub(super) fn adopt(&self, parameters: Rc<ServerParameters>) {
        *self.newest.borrow_mut() = Some(parameters);
    }

    /// The servers may be others from now on.
    pub(super) fn forget(&self) {
        *self.newest.borrow_mut() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_startup_response_is_built_again_for_other_values() {
        let tracked = Parameters::new([]);
        let parameters = tracked.empty();
        let server_parameters = ServerParameters::new(&tracked, std::sync::Arc::new([]), LoginUsers::One);
        let respond = |name: &str| {
            let requested = vec![(tracked.id("application_name").unwrap(), name.to_owned())];
            let make = |_: &ServerParameters| StartupResponse {
                requested: requested.clone(),
                parameters: parameters.clone(),
                messages: name.into(),
            };
            server_parameters.startup_response(&requested, make)
        };
        let first = respond("psql");
        assert!(Rc::ptr_eq(&first, &respond("psql")));
        assert_eq!(respond("cron").messages, b"cron");
        assert_eq!(respond("psql").messages, b"psql");
    }
}
