//! Traces of one in N transactions and of each login to a server, exported over OTLP. Owns the bounded queue between the
//! workers and the exporter on the control thread. It never blocks a worker, and no text of a query passes it.

mod destination;
mod exporter;
mod parent;
mod protocol;
mod record;
mod sampler;
mod spans;

pub use parent::{ParentInQuery, TraceParent};
pub use record::{LoginTraceRecord, PoolPlace, SpanFailure, TraceRecord, TransactionTraceRecord, WallClock};
pub use sampler::Sampler;

use crate::config::{ProcessEnvironment, Settings};
use crate::stats::trace_counters::TraceCounters;
use destination::CollectorAddress;
use exporter::Exporter;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

/// Records that wait for the exporter, of all workers; one that does not fit is dropped.
const MAX_QUEUED: usize = 4096;
/// Time that the end of the process waits for the last records.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// The workers' ends of what the exporter receives.
struct ExporterHandle {
    records: mpsc::Sender<TraceRecord>,
    endings: mpsc::Sender<oneshot::Sender<()>>,
    destination: watch::Sender<Option<Arc<CollectorAddress>>>,
}

/// Takes records from the workers. Empty in a process that serves no clients, such as `doctor`.
#[derive(Default)]
pub struct TraceQueue(OnceLock<ExporterHandle>);

impl TraceQueue {
    /// Starts the exporter on the control thread.
    pub fn start(&self, control: &Handle, settings: &Settings, counters: &Arc<TraceCounters>) {
        let (records, received) = mpsc::channel(MAX_QUEUED);
        let (endings, ending) = mpsc::channel(1);
        let (destination, destinations) = watch::channel(None);
        if self.0.set(ExporterHandle { records, endings, destination }).is_ok() {
            control.spawn(Exporter::new(received, ending, destinations, counters.clone()).run());
            self.configure(settings);
        }
    }

    /// Applies the settings of an activated configuration.
    pub fn configure(&self, settings: &Settings) {
        let Some(exporter) = self.0.get() else { return };
        let new =
            CollectorAddress::find(&settings.otlp_endpoint, &ProcessEnvironment).unwrap_or_else(|reason| {
                tracing::warn!("no traces are exported: {reason}");
                None
            });
        exporter.destination.send_if_modified(|current| {
            let is_other = current.as_deref() != new.as_ref();
            if is_other {
                if let Some(destination) = &new {
                    tracing::info!("traces are exported to {destination}");
                }
                *current = new.map(Arc::new);
            }
            is_other
        });
    }

    /// True if records are exported.
    pub fn is_on(&self) -> bool {
        self.0.get().is_some_and(|exporter| exporter.destination.borrow().is_some())
    }

    /// Hands a record over, or drops and counts it.
    pub fn submit(&self, record: TraceRecord, counters: &TraceCounters) {
        let Some(exporter) = self.0.get() else { return };
        if exporter.records.try_send(record).is_err() {
            counters.count_dropped(1);
        }
    }

    /// At the end of the process: exports what is queued, for at most [`FLUSH_LIMIT`].
    pub fn finish(&self, control: &Handle) {
        let Some(exporter) = self.0.get() else { return };
        let (done, is_done) = oneshot::channel();
        if exporter.endings.try_send(done).is_ok() {
            let _ = control.block_on(async { tokio::time::timeout(FLUSH_LIMIT, is_done).await });
        }
    }
}
