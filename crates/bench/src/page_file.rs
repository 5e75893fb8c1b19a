//! A page that is shown and stored. Owns the order of both; never decides where it belongs.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Prints `text`, and writes it to the file `name` in `dir`, which is created if it is missing.
///
/// # Errors
/// The directory or the file cannot be written.
pub(crate) fn write(dir: &Path, name: &str, text: &str) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    println!("{text}");
    let file = dir.join(name);
    fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    eprintln!("written to {}", fs::canonicalize(&file)?.display());
    Ok(())
}
