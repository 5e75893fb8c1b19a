//! What the clients of a pool are greeted with. Owns what the newest server reported, and the last greeting that was
//! made of it; how one is made is the client's part.

use super::shared::ReportedParameters;
use crate::parameters::{ParameterId, Parameters, ValueSet};
use std::cell::RefCell;
use std::rc::Rc;

/// A greeting without its cancel key: the same for all clients that ask for the same values.
pub struct StartupResponse {
    /// What was asked for: tracked parameter and value.
    pub asked: Vec<(ParameterId, String)>,
    /// All tracked values after that.
    pub parameters: ValueSet,
    /// AuthenticationOk and the parameters.
    pub messages: Vec<u8>,
}

/// What the newest server reported: every client is greeted with it.
pub struct ServerParameters {
    /// All parameters, in the server's order.
    pub reports: ReportedParameters,
    /// The tracked ones among them.
    pub parameters: ValueSet,
    last: RefCell<Option<Rc<StartupResponse>>>,
}

impl ServerParameters {
    /// Of a server that has logged in.
    pub(super) fn new(tracked: &Parameters, reports: ReportedParameters) -> Rc<Self> {
        let mut parameters = tracked.empty();
        for (name, value) in &*reports {
            if let Some(id) = tracked.id(name) {
                parameters = tracked.with(&parameters, id, value);
            }
        }
        Rc::new(Self { reports, parameters, last: RefCell::default() })
    }

    /// The greeting for who asks for these values: the last one, or one that is made.
    pub fn greeting(
        &self,
        asked: &[(ParameterId, String)],
        make: impl FnOnce(&Self) -> StartupResponse,
    ) -> Rc<StartupResponse> {
        let last = self.last.borrow().clone();
        match last {
            Some(greeting) if greeting.asked == asked => greeting,
            _ => self.last.borrow_mut().insert(Rc::new(make(self))).clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_is_made_anew_for_other_values() {
        let tracked = Parameters::new([]);
        let parameters = tracked.empty();
        let server_parameters = ServerParameters::new(&tracked, std::sync::Arc::new([]));
        let greet = |name: &str| {
            let asked = vec![(tracked.id("application_name").unwrap(), name.to_owned())];
            let make = |_: &ServerParameters| StartupResponse {
                asked: asked.clone(),
                parameters: parameters.clone(),
                messages: name.into(),
            };
            server_parameters.greeting(&asked, make)
        };
        let first = greet("psql");
        assert!(Rc::ptr_eq(&first, &greet("psql")));
        assert_eq!(greet("cron").messages, b"cron");
        assert_eq!(greet("psql").messages, b"psql");
    }
}
