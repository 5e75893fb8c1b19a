//! One name, one type: no type name is defined in two files.

use crate::{assert_none, sources};
use std::collections::BTreeMap;

const KEYWORDS: [&str; 4] = ["struct ", "enum ", "trait ", "union "];

/// The type that a line defines, if it defines one.
fn defined(line: &str) -> Option<&str> {
    let mut code = line.trim_start();
    if let Some(rest) = code.strip_prefix("pub") {
        code = rest
            .strip_prefix('(')
            .and_then(|rest| rest.split_once(") "))
            .map_or(rest, |(_, rest)| rest)
            .trim_start();
    }
    // Associated types are named by their trait.
    let is_alias = line.starts_with("type ") || line.starts_with("pub type ") || line.starts_with("pub(");
    let name = KEYWORDS
        .iter()
        .find_map(|keyword| code.strip_prefix(keyword))
        .or_else(|| code.strip_prefix("type ").filter(|_| is_alias))?;
    let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
    Some(&name[..end]).filter(|name| name.starts_with(char::is_uppercase))
}

#[test]
fn no_type_name_is_defined_in_two_files() {
    let files = sources();
    let mut names: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (path, text) in &files {
        for name in text.lines().filter_map(defined) {
            let paths = names.entry(name).or_default();
            if paths.last() != Some(&path.as_str()) {
                paths.push(path);
            }
        }
    }
    let found: Vec<_> = names
        .into_iter()
        .filter(|(_, paths)| paths.len() > 1)
        .map(|(name, paths)| format!("{name}: {}", paths.join(", ")))
        .collect();
    assert_none("type names with several meanings", &found);
}

#[test]
fn definitions_are_recognised() {
    assert_eq!(defined("pub(super) struct Link<'a> {"), Some("Link"));
    assert_eq!(defined("    enum Op {"), Some("Op"));
    assert_eq!(defined("    type Output = ();"), None);
    assert_eq!(defined("pub type Job = Box<dyn FnOnce()>;"), Some("Job"));
    assert_eq!(defined("structure of words"), None);
}
