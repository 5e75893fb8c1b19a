//! What one worker reports for the pooler's own metrics. Owns the reading of its state.

use crate::admin::Console;
use crate::pool::directory::DatabaseState;
use crate::stats::snapshot::Snapshot;
use crate::worker;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// Databases that are listed before other tasks of the worker get their turn.
const DATABASES_PER_STEP: usize = 100;

/// The part of one worker.
#[derive(Default)]
pub(super) struct WorkerPart {
    pub(super) snapshot: Snapshot,
    /// CPU time of its thread.
    pub(super) cpu: Duration,
    /// Databases, and whether they are paused; the same at all workers that know them.
    pub(super) paused: BTreeMap<String, bool>,
    /// When the certificate of the listeners expires, in seconds since 1970.
    pub(super) listener_expires_at: Option<i64>,
}

impl WorkerPart {
    /// The part of this worker.
    pub(super) async fn of(console: &Console) -> Self {
        let mut paused = BTreeMap::new();
        let add = |state: Rc<DatabaseState>| paused.extend([(state.name.to_string(), state.is_paused())]);
        console.directory.visit_databases(DATABASES_PER_STEP, add).await;
        let tls = &console.context.loaded().client_tls;
        Self {
            snapshot: console.snapshot().await,
            paused,
            listener_expires_at: tls.as_ref().and_then(|tls| tls.expires_at),
            // Last, so that it contains the work above.
            cpu: worker::cpu_time(),
        }
    }
}
