//! How fast a backlog shrinks, and when it will be gone.

use std::collections::VecDeque;
use std::time::Duration;

/// Samples are at least this far apart ...
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// ... and are kept this long.
const LOOK_BACK: Duration = Duration::from_secs(10);
/// A backlog worth less than this at the present rate is the traffic itself, not a backlog.
const JUST_TRAFFIC: f64 = 1.0;

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Duration,
    acked: u64,
    backlog: u64,
}

/// Rate and time to drain of one uplink, from figures noted now and then.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    samples: VecDeque<Sample>,
}

impl Progress {
    /// Knows nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes the figures of this moment (monotonic): acknowledged events since the start, and events waiting. More often
    /// than once a second adds nothing; after a long silence the old figures are forgotten.
    pub fn note(&mut self, now: Duration, acked: u64, backlog: u64) {
        if self.samples.back().is_some_and(|last| now.saturating_sub(last.at) < SAMPLE_EVERY) {
            return;
        }
        self.samples.retain(|sample| now.saturating_sub(sample.at) <= LOOK_BACK);
        self.samples.push_back(Sample { at: now, acked, backlog });
    }

    /// Acknowledged events per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.slope(|sample| sample.acked).unwrap_or(0.0)
    }

    /// Time until the backlog is gone at the present pace, arrivals included; `None` if it does not shrink.
    #[must_use]
    pub fn time_to_drain(&self) -> Option<Duration> {
        let backlog = as_f64(self.samples.back()?.backlog);
        let rate = self.rate();
        if backlog <= rate * JUST_TRAFFIC {
            return seconds(if backlog == 0.0 { 0.0 } else { backlog / rate });
        }
        let shrinks = -self.slope(|sample| sample.backlog)?;
        if shrinks > 0.0 { seconds(backlog / shrinks) } else { None }
    }

    fn slope(&self, figure: impl Fn(&Sample) -> u64) -> Option<f64> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        let span = last.at.saturating_sub(first.at).as_secs_f64();
        (span > 0.0).then(|| (as_f64(figure(last)) - as_f64(figure(first))) / span)
    }
}

#[allow(clippy::cast_precision_loss, reason = "a rate for people: three digits are enough")]
fn as_f64(value: u64) -> f64 {
    value as f64
}

fn seconds(value: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(figures: &[(u64, u64, u64)]) -> Progress {
        let mut progress = Progress::new();
        for &(second, acked, backlog) in figures {
            progress.note(Duration::from_secs(second), acked, backlog);
        }
        progress
    }

    #[test]
    fn a_shrinking_backlog_has_an_end() {
        let progress = after(&[(0, 0, 10_000), (1, 1_000, 9_500), (2, 2_000, 9_000)]);
        assert!((progress.rate() - 1_000.0).abs() < 1e-6);
        assert_eq!(progress.time_to_drain(), Some(Duration::from_secs(18)), "arrivals count against it");
    }

    #[test]
    fn a_growing_backlog_has_none() {
        assert_eq!(after(&[(0, 0, 10_000), (1, 100, 11_000)]).time_to_drain(), None);
        assert_eq!(after(&[(0, 0, 10_000), (1, 0, 10_000)]).time_to_drain(), None, "nothing moves");
    }

    #[test]
    fn traffic_in_passing_is_no_backlog() {
        let progress = after(&[(0, 0, 40), (1, 2_000, 50), (2, 4_000, 60)]);
        assert_eq!(progress.time_to_drain(), Some(Duration::from_millis(30)));
        assert_eq!(after(&[(0, 7, 0), (1, 7, 0)]).time_to_drain(), Some(Duration::ZERO));
        assert_eq!(after(&[]).time_to_drain(), None);
    }

    #[test]
    fn figures_look_back_ten_seconds() {
        let figures: Vec<_> =
            (0..40).map(|s| (s, if s < 20 { s * 1_000 } else { 20_000 + (s - 20) * 10 }, 0)).collect();
        assert!((after(&figures).rate() - 10.0).abs() < 1e-6);
    }
}
