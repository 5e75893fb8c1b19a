//! Core dumps: none unless somebody asks for them, since this process holds tokens, passwords and what clients send.
//! Owns the switch.

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// From now on no core file is written, whatever limits and patterns are in force, and only root may trace the process.
pub(super) fn forbid() {
    set(DumpableBehavior::NotDumpable);
}

/// `core_dumps = 1`: as the system has it.
pub(super) fn allow() {
    set(DumpableBehavior::Dumpable);
}

fn set(behavior: DumpableBehavior) {
    // Refused only for values that do not exist.
    if let Err(error) = set_dumpable_behavior(behavior) {
        tracing::warn!(%error, "core dumps are as they were");
    }
}
