//! The kinds of notable events: log lines use those of the table in `events.rs`, and all of them.

use crate::{assert_none, sources};
use std::collections::BTreeSet;

/// The names of kinds that follow a pattern in a text.
fn after(text: &str, pattern: &str) -> BTreeSet<String> {
    let names =
        text.match_indices(pattern).filter_map(|(at, _)| text[at + pattern.len()..].split('"').next());
    names.map(str::to_owned).collect()
}

#[test]
fn log_lines_have_the_kinds_of_events_in_the_table() {
    let (mut known, mut used) = (BTreeSet::new(), BTreeSet::new());
    for (path, text) in sources() {
        if path.ends_with("src/events.rs") {
            known = after(&text, "    kind(\"");
        } else if path.starts_with("crates/iambouncer/") {
            used.extend(after(&text, "event = \""));
            for line in text.lines().filter(|line| line.trim_start().starts_with("let event = ")) {
                used.extend(after(line, "then_some(\""));
            }
        }
    }
    assert!(known.len() > 10, "{known:?}");
    let unknown: Vec<String> = used.difference(&known).cloned().collect();
    assert_none("kinds of events that are not in the table", &unknown);
    let unused: Vec<String> = known.difference(&used).cloned().collect();
    assert_none("kinds of events that no log line has", &unused);
}
