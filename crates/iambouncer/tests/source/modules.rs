//! Modules depend downwards only, in the order of `ARCHITECTURE.md`. Owns the reading of `use` lines and paths.

use crate::{assert_none, files, root};
use std::collections::BTreeSet;

/// The line before and after the list of modules in `ARCHITECTURE.md`.
const LIST_BEGIN: &str = "from the bottom up";

/// Modules of the pooler from the bottom up.
fn order() -> Vec<String> {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let list = text.split_once(LIST_BEGIN).unwrap().1.split("```").nth(1).unwrap();
    // Two spaces or more separate the modules of a line from their description.
    let modules = list.lines().filter_map(|line| line.split("  ").next());
    modules.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

/// The file's code without comments and without its unit tests.
fn code_of(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// Modules that a file names with `crate::`.
fn named(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let names = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap().split(',').map(str::trim).collect(),
            None => vec![rest],
        };
        for name in names {
            let end = name.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(name.len());
            found.insert(name[..end].to_owned());
        }
    }
    found
}

#[test]
fn no_module_depends_on_one_above_it() {
    let order = order();
    let position = |module: &str| order.iter().position(|known| known == module);
    let mut found = Vec::new();
    for (path, text) in files("crates/iambouncer/src", &[".rs"]) {
        if path.ends_with("/tests.rs") || path.ends_with("_tests.rs") {
            continue;
        }
        let inside = path.strip_prefix("crates/iambouncer/src/").unwrap();
        let module = inside.split(['/', '.']).next().unwrap();
        if matches!(module, "lib" | "main") {
            continue;
        }
        let Some(own) = position(module) else {
            found.push(format!("{module} is not in the list"));
            continue;
        };
        for name in named(&code_of(&text)) {
            if position(&name).is_some_and(|other| other > own) {
                found.push(format!("{path} uses {name}"));
            }
        }
    }
    assert_none("dependencies that point upwards, or modules that are not listed in ARCHITECTURE.md", &found);
}

#[test]
fn modules_are_found_in_use_lines_and_in_paths() {
    let code = "use crate::{net, worker::timers};\nfn a() { crate::pool::b() }";
    assert_eq!(named(code).into_iter().collect::<Vec<_>>(), ["net", "pool", "worker"]);
}
