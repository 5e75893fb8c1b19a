//! Where `tools/drivers` has put the drivers and SDKs of other languages. Owns no process, and installs nothing: a test
//! that needs them fails without them.

use super::bouncer::end_with_the_test;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The folder below the target directory that this test program was built in.
fn folder(name: &str) -> PathBuf {
    let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
    let folder = target.join("drivers").join(name);
    assert!(folder.join("stamp").exists(), "{} is not there; run tools/drivers", folder.display());
    folder
}

/// A program of the Python environment, with an empty environment of variables; it ends with the test.
pub fn python(program: &str) -> Command {
    clean(Command::new(folder("python").join("bin").join(program)))
}

fn clean(mut command: Command) -> Command {
    command.env_clear().stdin(Stdio::null());
    end_with_the_test(&mut command);
    command
}
