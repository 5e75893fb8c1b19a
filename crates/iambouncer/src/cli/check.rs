//! `iambouncer check FILE`: reports every configuration error that would prevent a start. Owns the summary line.

use super::Failure;
use super::run::files_of;
use crate::config::{ProcessEnvironment, load_file};
use std::path::Path;

pub(super) fn check(file: &Path) -> Result<(), Failure> {
    let loaded = load_file(file, &ProcessEnvironment, &[])
        .map_err(|report| Failure::Configuration(report.to_string()))?;
    let warnings = loaded.warnings.to_string();
    if !warnings.is_empty() {
        super::complain(warnings.trim_end());
    }
    let files = files_of(loaded.config.clone())?;
    for warning in files.hba.warnings() {
        super::complain(&format!("warning: {warning}"));
    }
    let databases = loaded.config.all_databases().count();
    let plural = if databases == 1 { "" } else { "s" };
    super::print(format!("{}: ok, {databases} database{plural}\n", file.display()).as_bytes())
}
