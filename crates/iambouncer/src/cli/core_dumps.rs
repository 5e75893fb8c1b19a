//! Core dumps, which are off by default: this process holds tokens, passwords and client data. Owns the switch.

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// Disables core files, whatever limits and patterns are set; only root may trace the process.
pub(super) fn forbid() {
    set(DumpableBehavior::NotDumpable);
}

/// `core_dumps = 1`: leaves core dumps to the limits of the system.
pub(super) fn allow() {
    set(DumpableBehavior::Dumpable);
}

fn set(behavior: DumpableBehavior) {
    // Fails for invalid values only.
    if let Err(error) = set_dumpable_behavior(behavior) {
        tracing::warn!(%error, "cannot change whether core dumps are written");
    }
}
