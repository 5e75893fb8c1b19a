//! The load of one worker: how much of the last seconds its thread has computed. Owns a few samples of the thread's CPU
//! time, taken by its heartbeat.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Number of samples; their distance is that of the heartbeat, a second.
const MAX_SAMPLES: usize = 11;

/// The load of the calling thread.
#[derive(Default)]
pub struct LoadMeter(RefCell<VecDeque<(Instant, Duration)>>);

impl LoadMeter {
    /// Adds a sample.
    pub fn sample(&self, at: Instant, cpu: Duration) {
        let mut samples = self.0.borrow_mut();
        if samples.len() >= MAX_SAMPLES {
            samples.pop_front();
        }
        samples.push_back((at, cpu));
    }

    /// Percent of the time since the oldest sample in which the thread has computed; 0 before the second sample.
    pub fn percent(&self) -> f64 {
        let samples = self.0.borrow();
        let (Some((since, before)), Some((at, now))) = (samples.front(), samples.back()) else { return 0.0 };
        let passed = at.saturating_duration_since(*since).as_secs_f64();
        if passed > 0.0 { 100.0 * now.saturating_sub(*before).as_secs_f64() / passed } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_covers_the_last_ten_seconds() {
        let (meter, began) = (LoadMeter::default(), Instant::now());
        assert_eq!(meter.percent(), 0.0);
        let (second, half) = (Duration::from_secs(1), Duration::from_millis(500));
        (0..=10).for_each(|n| meter.sample(began + second * n, second * n));
        assert_eq!(meter.percent(), 100.0);
        (1..=10).for_each(|n| meter.sample(began + second * (10 + n), second * 10 + half * n));
        assert_eq!(meter.percent(), 50.0);
    }
}
