//! Rules of `docs/style.md` and `ARCHITECTURE.md` that can be checked in the sources. Owns the list of files; each rule is a
//! module.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod events;
mod log_fields;
mod modules;
mod sizes;
mod types;
mod words;

use std::path::{Path, PathBuf};

/// The workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Directories that hold no sources of the project.
const SKIPPED: [&str; 4] = ["target", ".git", "node_modules", ".ci"];

/// Files below `directory` with one of these endings: path relative to the workspace, and text.
fn files(directory: &str, endings: &[&str]) -> Vec<(String, String)> {
    let root = root();
    let (mut found, mut pending) = (Vec::new(), vec![root.join(directory)]);
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !SKIPPED.contains(&name.as_str()) {
                    pending.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                let relative = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
                found.push((relative, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no files in {directory}");
    found
}

/// Rust files of the crates, without their tests.
fn sources() -> Vec<(String, String)> {
    files("crates", &[".rs"]).into_iter().filter(|(path, _)| path.contains("/src/")).collect()
}

/// Fails with the list of what was found, if anything was.
fn assert_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{} {what}:\n{}", found.len(), found.join("\n"));
}
