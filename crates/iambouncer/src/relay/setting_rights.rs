//! Settings that only superusers may change. A function with SECURITY DEFINER, or another role, may have changed one in the
//! session of a client that could not give it to its next server. Owns the columns that find these settings; each name is
//! looked up once for a database and worker, unless it is one of them.

use super::session::ClientSession;
use crate::parameters::{ParameterId, ParameterIds, Parameters, push_literal};
use sql::{Feature, Features};

/// In front of a name in the answer: the user of the connection may change it (GRANT SET ON PARAMETER), …
const GRANTED: char = '=';
/// … or may not, and the session has set it.
const SET: char = '+';
/// The first version with such grants.
const GRANTS_SINCE: u32 = 15;

/// Appends two columns: which of these settings only superusers may change, and whether the user of the connection is one.
pub(super) fn push_columns(
    sql: &mut String,
    parameters: &Parameters,
    settings: &[ParameterId],
    server_version: Option<u32>,
) {
    sql.push_str("(SELECT pg_catalog.string_agg(pg_catalog.concat(CASE ");
    if server_version >= Some(GRANTS_SINCE) {
        sql.push_str("WHEN pg_catalog.has_parameter_privilege(session_user, name, 'SET') THEN '=' ");
    }
    sql.push_str(
        "WHEN source OPERATOR(pg_catalog.=) 'session' THEN '+' ELSE '-' END, pg_catalog.lower(name)), ',') \
         FROM pg_catalog.pg_settings WHERE context OPERATOR(pg_catalog.=) 'superuser' \
         AND pg_catalog.lower(name) OPERATOR(pg_catalog.=) ANY (ARRAY[",
    );
    for (at, id) in settings.iter().enumerate() {
        sql.push_str(if at > 0 { "," } else { "" });
        push_literal(sql, &parameters.name(*id).to_ascii_lowercase());
    }
    sql.push_str(
        "])),(SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) session_user)",
    );
}

/// What the columns say.
pub(super) struct SettingRights {
    /// Names in lower case, each with its mark.
    of_superusers: Vec<(String, char)>,
    is_superuser: bool,
}

impl SettingRights {
    /// Takes the columns from a row. `None` if they are no answer to the query.
    pub(super) fn of(row: &mut impl Iterator<Item = Option<String>>) -> Option<Self> {
        let names = row.next()?.unwrap_or_default();
        let is_superuser = row.next()?.as_deref() == Some("t");
        let name = |text: &str| {
            let mut rest = text.chars();
            let mark = rest.next()?;
            Some((rest.collect(), mark))
        };
        let of_superusers = names.split(',').filter_map(name).collect();
        Some(Self { of_superusers, is_superuser })
    }
}

impl ClientSession {
    /// The major version of the pool's servers.
    pub(super) fn server_version(&self) -> Option<u32> {
        let server_parameters = self.pool.server_parameters()?;
        let (_, version) = server_parameters.reports.iter().find(|(name, _)| name == "server_version")?;
        version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    }

    /// True if it is not known yet that every user may change these settings.
    pub(super) fn must_look_up_rights(&self, settings: &[ParameterId]) -> bool {
        let settable = self.pool.database.settable.borrow();
        settings.iter().any(|id| !settable.contains(*id))
    }

    /// Records who may change these settings. The client keeps its server if one has been set that it may not change.
    /// Returns those: they are not values that another server can get.
    pub(super) fn record_rights(&self, rights: &SettingRights, settings: &[ParameterId]) -> ParameterIds {
        let parameters = &self.pool.context.parameters;
        let mut settable = self.pool.database.settable.borrow_mut();
        let mut reserved = ParameterIds::default();
        for id in settings {
            let name = parameters.name(*id);
            match rights.of_superusers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)) {
                None => settable.insert(*id),
                Some((_, mark)) if rights.is_superuser || *mark == GRANTED => {}
                Some((_, mark)) => {
                    reserved.insert(*id);
                    if *mark == SET {
                        self.pin(Features::of(&[Feature::SuperuserSetting]), b"");
                    }
                }
            }
        }
        reserved
    }
}
