//! Fills the history of the pools. Owns the task that takes a sample every few seconds; the history itself belongs to
//! [`crate::stats::history`].

use super::scrape::Scraper;
use crate::process::Process;
use crate::stats::history::STEP;
use std::sync::Arc;
use std::time::Instant;
use tokio::time::{MissedTickBehavior, interval};

/// Takes samples until the runtime stops.
pub(super) async fn record(process: Arc<Process>, scraper: Arc<Scraper>) {
    let mut ticks = interval(STEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let figures = scraper.scrape().await;
        process.history.record(&figures.pools, Instant::now());
    }
}
