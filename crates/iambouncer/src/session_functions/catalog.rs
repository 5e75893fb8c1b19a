//! What the catalog of a database says about functions that change the session of their caller. Owns how the effect of a
//! function spreads to what calls it; sends no query.

use sql::names::NameUse;
use sql::routines::{Doubt, Routine};
use sql::{ChangingNames, Feature, SessionChanges};
use std::collections::{BTreeMap, BTreeSet};

/// Maximum number of times that the effects are computed again because a function that is called has gained one.
const MAX_PASSES: usize = 32;

/// A routine that may change a session, or call one that does.
#[derive(Debug, Clone)]
pub struct FoundRoutine {
    pub(super) oid: u32,
    pub(super) schema: String,
    pub(super) name: String,
    /// `None` if it may change anything: its source is not available, or too long.
    pub(super) routine: Option<Routine>,
    /// What it changes without calling others.
    pub(super) own: SessionChanges,
}

impl FoundRoutine {
    pub(super) fn new(
        oid: u32,
        schema: String,
        name: String,
        routine: Option<Routine>,
        doubt: Doubt,
    ) -> Self {
        let own =
            routine.as_ref().map_or_else(SessionChanges::unknown_code, |routine| routine.own_changes(doubt));
        Self { oid, schema, name, routine, own }
    }
}

/// Something that calls a routine without naming it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    /// The routine that is called.
    pub(super) from: u32,
    pub(super) kind: EdgeKind,
    /// The name of what calls it.
    pub(super) name: String,
}

/// The kind of what calls a routine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EdgeKind {
    /// A table or a view that is used like this.
    Relation(NameUse),
    /// Another routine, with this number.
    Routine(u32),
    /// An event trigger.
    SchemaChange,
}

/// What has been read of a catalog.
#[derive(Debug, Default)]
pub struct Catalog {
    routines: BTreeMap<u32, FoundRoutine>,
    edges: BTreeSet<Edge>,
    /// The effect of each routine that has one.
    effects: BTreeMap<u32, SessionChanges>,
    /// All names with an effect.
    names: ChangingNames,
    asked_routines: BTreeSet<u32>,
    asked_names: BTreeSet<String>,
    problem: Option<String>,
}

/// A name with an effect, for people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionFunction {
    /// Its schema; empty for a relation.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// How a statement has to use it.
    pub usage: NameUse,
    /// Settings that may have another value afterwards.
    pub settings: Vec<String>,
    /// State for which a client keeps its server.
    pub keeps: Vec<&'static str>,
}

impl Catalog {
    /// Adds a routine.
    pub fn add_routine(&mut self, routine: FoundRoutine) {
        self.routines.entry(routine.oid).or_insert(routine);
    }

    /// Adds something that calls a routine.
    pub fn add_edge(&mut self, edge: Edge) {
        self.edges.insert(edge);
    }

    pub(super) fn into_names(self) -> ChangingNames {
        self.names
    }

    /// Computes the effects of everything that is known.
    pub fn spread(&mut self) {
        for _ in 0..MAX_PASSES {
            let mut effects = BTreeMap::new();
            for found in self.routines.values() {
                add_effect(&mut effects, found.oid, &found.own);
                if let Some(routine) = &found.routine {
                    add_effect(&mut effects, found.oid, &routine.changes_by(&self.names));
                }
            }
            self.add_effects_of_edges(&mut effects);
            let names = self.names_of(&effects);
            let is_complete = names == self.names && effects == self.effects;
            (self.names, self.effects) = (names, effects);
            if is_complete {
                return;
            }
        }
        self.problem = Some(format!("functions call each other over more than {MAX_PASSES} levels"));
    }

    /// The catalog has more than was read.
    pub fn add_problem(&mut self, problem: String) {
        self.problem = Some(problem);
    }

    /// Why this is not all, if it is not.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Routines that call others in a body that the server has parsed.
    fn add_effects_of_edges(&self, effects: &mut BTreeMap<u32, SessionChanges>) {
        for edge in &self.edges {
            if let EdgeKind::Routine(oid) = edge.kind
                && let Some(effect) =
                    effects.get(&edge.from).or_else(|| self.effects.get(&edge.from)).cloned()
            {
                add_effect(effects, oid, &effect);
            }
        }
    }

    fn names_of(&self, effects: &BTreeMap<u32, SessionChanges>) -> ChangingNames {
        let mut names = ChangingNames::default();
        for (oid, effect) in effects {
            if let Some(found) = self.routines.get(oid) {
                names.add(&found.name, NameUse::Call, effect);
            }
        }
        for edge in &self.edges {
            let Some(effect) = effects.get(&edge.from) else { continue };
            match edge.kind {
                EdgeKind::Relation(usage) => names.add(&edge.name, usage, effect),
                EdgeKind::Routine(_) => names.add(&edge.name, NameUse::Call, effect),
                EdgeKind::SchemaChange => names.add_schema_changes(effect),
            }
        }
        names
    }

    /// Routines with an effect whose users have not been asked for. They count as asked then.
    pub fn unasked_routines(&mut self) -> Vec<u32> {
        let new: Vec<u32> =
            self.effects.keys().copied().filter(|oid| !self.asked_routines.contains(oid)).collect();
        self.asked_routines.extend(&new);
        new
    }

    /// Names with an effect whose callers have not been asked for. They count as asked then.
    pub fn unasked_names(&mut self) -> Vec<String> {
        let names = self.names.iter().map(|(name, ..)| name.to_owned());
        let new: BTreeSet<String> = names.filter(|name| !self.asked_names.contains(name)).collect();
        self.asked_names.extend(new.iter().cloned());
        new.into_iter().collect()
    }

    #[cfg(test)]
    pub(super) fn add_opaque_routine(&mut self, name: &str) {
        self.add_routine(FoundRoutine::new(1, String::new(), name.to_owned(), None, Doubt::Harmless));
        self.spread();
    }

    /// The names that set or leave something, in order; those that only remove something are not listed.
    pub(super) fn report(&self) -> Vec<SessionFunction> {
        let mut report = BTreeSet::new();
        for (oid, effect) in &self.effects {
            if let Some(found) = self.routines.get(oid) {
                report.insert(SessionFunction::new(&found.schema, &found.name, NameUse::Call, effect));
            }
        }
        for edge in &self.edges {
            if let (EdgeKind::Routine(oid), Some(effect)) = (edge.kind, self.effects.get(&edge.from))
                && !self.routines.contains_key(&oid)
            {
                report.insert(SessionFunction::new("", &edge.name, NameUse::Call, effect));
            }
        }
        for (name, usage, effect) in self.names.iter() {
            if usage != NameUse::Call {
                report.insert(SessionFunction::new("", name, usage, effect));
            }
        }
        report
            .into_iter()
            .filter(|function| !function.settings.is_empty() || !function.keeps.is_empty())
            .collect()
    }
}

impl SessionFunction {
    fn new(schema: &str, name: &str, usage: NameUse, effect: &SessionChanges) -> Self {
        Self {
            schema: schema.to_owned(),
            name: name.to_owned(),
            usage,
            settings: effect.settings.iter().map(|name| name.to_string()).collect(),
            keeps: effect.begins.iter().map(Feature::name).collect(),
        }
    }
}

fn add_effect(effects: &mut BTreeMap<u32, SessionChanges>, oid: u32, effect: &SessionChanges) {
    if *effect != SessionChanges::default() {
        let known = effects.entry(oid).or_default();
        known.add(effect);
        // So that equal effects are equal values.
        known.settings.sort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sql::routines::Language;

    fn routine(oid: u32, name: &str, source: &str) -> FoundRoutine {
        let routine = Routine { language: Language::PlPgSql, source: source.into() };
        FoundRoutine::new(oid, "public".to_owned(), name.to_owned(), Some(routine), Doubt::Harmless)
    }

    fn spread(routines: &[FoundRoutine], edges: &[Edge]) -> Catalog {
        let mut catalog = Catalog::default();
        routines.iter().for_each(|routine| catalog.add_routine(routine.clone()));
        edges.iter().for_each(|edge| catalog.add_edge(edge.clone()));
        catalog.spread();
        catalog
    }

    #[test]
    fn an_effect_spreads_to_callers_in_any_order_and_in_circles() {
        let catalog = spread(
            &[
                routine(1, "outer", "BEGIN PERFORM middle(); END"),
                routine(2, "middle", "BEGIN PERFORM inner(); PERFORM outer(); END"),
                routine(3, "inner", "BEGIN PERFORM set_config('a.b', 'c', false); END"),
                routine(4, "other", "BEGIN PERFORM now(); END"),
            ],
            &[],
        );
        let names: Vec<_> = catalog.report().into_iter().map(|function| function.name).collect();
        assert_eq!(names, ["inner", "middle", "outer"]);
        assert!(catalog.report().iter().all(|function| function.settings == ["a.b"]));
    }

    #[test]
    fn a_table_has_the_effect_of_its_triggers_when_it_is_written() {
        let table = Edge { from: 1, kind: EdgeKind::Relation(NameUse::Write), name: "orders".to_owned() };
        let mut catalog = spread(
            &[
                routine(1, "on_order", "BEGIN SET app.last = 1; END"),
                routine(2, "place_order", "BEGIN INSERT INTO orders VALUES (1); END"),
            ],
            &[table],
        );
        assert_eq!(catalog.unasked_routines(), [1, 2]);
        assert_eq!(catalog.unasked_routines(), [0; 0]);
        assert_eq!(catalog.unasked_names(), ["on_order", "orders", "place_order"]);
        let names = catalog.into_names();
        assert!(names.changes_of(b"INSERT INTO orders VALUES (1)").is_some());
        assert!(names.changes_of(b"SELECT * FROM orders").is_none());
    }
}
