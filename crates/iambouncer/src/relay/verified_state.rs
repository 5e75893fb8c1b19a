//! `state_verify`: after some transactions, the whole state of the server's session is compared with what the pooler has
//! recorded of it. Owns that query, and what counts as a difference.
//!
//! It finds what no text shows, such as a setting that an extension in C has changed, unless it is one of an extension or
//! application that no client has set: PostgreSQL does not list these.

use super::exchange::Exchange;
use super::link::Link;
use super::read_state::{PROBES, present_features};
use super::session::ClientSession;
use super::unread_state::StateQuery;
use crate::parameters::{ParameterId, Parameters, ROLE, ValueSet, push_current_setting};
use sql::{Feature, Features};

/// What a session has without SET ROLE.
const NO_ROLE: &str = "none";
/// Columns behind those of the features: settings that have been set in the session, without those of the transaction, and
/// whether roles are set by ALTER ROLE or ALTER DATABASE, which is no change of the session.
const COLUMNS: usize = 2;

impl Exchange {
    /// Called when the server could be released and has nothing that is not known. True if the server is asked.
    #[cold]
    #[inline(never)]
    pub(super) fn verifies_state(&mut self, session: &ClientSession) -> bool {
        let Link::Server(linked) = &mut self.link else { return false };
        linked.is_verified = false;
        if session.keeps_state() {
            return false;
        }
        let parameters = &session.pool.context.parameters;
        let settings = verified_settings(parameters, &linked.server.parameters);
        let sql = query(parameters, &settings);
        self.send_state_query(&sql, StateQuery::Verify { settings, row: None });
        true
    }

    /// Compares the answer with what is recorded.
    #[cold]
    pub(super) fn state_verified(
        &mut self,
        session: &ClientSession,
        settings: &[ParameterId],
        row: Option<Vec<Option<String>>>,
    ) {
        let Link::Server(linked) = &mut self.link else { return };
        let Some(row) = row else { return };
        let counters = &session.pool.context.process.session_counters;
        counters.count_verification();
        let known = Known {
            parameters: &session.pool.context.parameters,
            of_server: &linked.server.parameters,
            of_login: &session.login_parameters,
            // What connect_query sets is not recorded.
            lists_all: session.pool.database.line.borrow().connect_query.is_none(),
        };
        let differences = known.differences(settings, row);
        if differences.is_empty() {
            return;
        }
        counters.count_difference();
        let identity = session.info.identity();
        tracing::warn!(
            id = session.info.id,
            user = %identity.user,
            database = %identity.database,
            differences = differences.join(", "),
            "the session on a server differs from what is recorded of it (state_verify); the client keeps the server, which is closed afterwards"
        );
        session.pin(Features::of(&[Feature::UnknownCode]), b"");
    }
}

/// The settings whose values are compared: all that are recorded, and the role.
fn verified_settings(parameters: &Parameters, of_server: &ValueSet) -> Vec<ParameterId> {
    let mut settings: Vec<ParameterId> = of_server.iter().map(|(id, _)| id).collect();
    if let Some(role) = parameters.followed(ROLE)
        && !settings.contains(&role)
    {
        settings.push(role);
    }
    settings
}

fn query(parameters: &Parameters, settings: &[ParameterId]) -> String {
    let mut sql = format!(
        "SELECT {PROBES},(SELECT pg_catalog.string_agg(name, ',') FROM pg_catalog.pg_settings \
         WHERE source OPERATOR(pg_catalog.=) 'session' AND name OPERATOR(pg_catalog.<>) ALL \
         (ARRAY['transaction_isolation', 'transaction_read_only', 'transaction_deferrable'])),\
         EXISTS (SELECT FROM pg_catalog.pg_db_role_setting, pg_catalog.unnest(setconfig) AS setting \
         WHERE setting OPERATOR(pg_catalog.~~) 'role=%')"
    );
    for id in settings {
        sql.push(',');
        push_current_setting(&mut sql, parameters.name(*id));
    }
    sql
}

/// What is recorded of a session.
struct Known<'a> {
    parameters: &'a Parameters,
    of_server: &'a ValueSet,
    /// The client's startup values, in its own spelling.
    of_login: &'a ValueSet,
    /// Every setting of the session is recorded.
    lists_all: bool,
}

impl Known<'_> {
    /// The names of what differs, without values. A row that is no answer to the query has none.
    fn differences(&self, settings: &[ParameterId], row: Vec<Option<String>>) -> Vec<String> {
        if row.len() != Feature::PROBED.len() + COLUMNS + settings.len() {
            return Vec::new();
        }
        let mut row = row.into_iter();
        let Some(present) = present_features(&mut row) else { return Vec::new() };
        let mut differences: Vec<String> = present.iter().map(|feature| feature.name().to_owned()).collect();
        let set = row.next().flatten().unwrap_or_default();
        let sets_roles = row.next().flatten().as_deref() == Some("t");
        if self.lists_all {
            let names = set.split(',').filter(|name| !name.is_empty());
            differences.extend(names.filter(|name| !self.is_recorded(name)).map(str::to_owned));
        }
        let changed =
            settings.iter().zip(row).filter(|(id, value)| !self.agrees(**id, value.as_deref(), sets_roles));
        differences.extend(changed.map(|(id, _)| self.parameters.name(*id).to_owned()));
        differences
    }

    fn is_recorded(&self, name: &str) -> bool {
        self.of_server.iter().any(|(id, _)| self.parameters.name(id).eq_ignore_ascii_case(name))
    }

    fn agrees(&self, id: ParameterId, value: Option<&str>, sets_roles: bool) -> bool {
        match self.of_server.get(id) {
            // PostgreSQL has another spelling of it.
            Some(known) => value == Some(known) || self.of_login.get(id) == Some(known) && value.is_some(),
            None => sets_roles || value.is_none_or(|value| value == NO_ROLE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[&str]) -> Vec<Option<String>> {
        let probes = std::iter::repeat_n("f", Feature::PROBED.len());
        probes.chain(values.iter().copied()).map(|value| Some(value.to_owned())).collect()
    }

    #[test]
    fn only_what_is_not_recorded_is_a_difference() {
        let parameters = Parameters::new([]);
        let id = |name| parameters.followed(name).expect("a number is free");
        let (work_mem, role, tenant) = (id("work_mem"), id(ROLE), id("app.tenant"));
        let of_server = parameters.set_of([(work_mem, "4096".into()), (tenant, "a".into())]);
        let of_login = parameters.set_of([(work_mem, "4096".into())]);
        let known =
            Known { parameters: &parameters, of_server: &of_server, of_login: &of_login, lists_all: true };
        let settings = [work_mem, tenant, role];
        let differences = |values: &[&str]| known.differences(&settings, row(values)).join(" ");
        assert_eq!(differences(&["work_mem", "f", "4MB", "a", "none"]), "");
        assert_eq!(differences(&["work_mem,jit", "f", "4MB", "b", "none"]), "jit app.tenant");
        assert_eq!(differences(&["", "f", "4MB", "a", "other"]), "role");
        assert_eq!(differences(&["", "t", "4MB", "a", "other"]), "");
        let mut with_lock = row(&["", "f", "4MB", "a", "none"]);
        with_lock[2] = Some("t".to_owned());
        assert_eq!(known.differences(&settings, with_lock), ["advisory_lock"]);
        let with_connect_query = Known { lists_all: false, ..known };
        assert!(with_connect_query.differences(&settings, row(&["jit", "f", "4MB", "a", "none"])).is_empty());
    }
}
