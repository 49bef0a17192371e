//! Tasks that are stopped together: the steps of an ordered stop.

use std::future::Future;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};
use tracing::{error, warn};

/// Resolves when its stage is to stop.
pub(super) type StopSignal = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// How a task ended that nobody stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// By itself: the node cannot do without it.
    Unasked,
    /// Its work was taken away from it.
    Retired,
}

/// Some tasks and their common stop signal.
#[derive(Debug)]
pub(super) struct Stage {
    name: &'static str,
    stop: watch::Sender<bool>,
    tasks: JoinSet<Ending>,
}

impl Stage {
    pub(super) fn new(name: &'static str) -> Stage {
        Stage { name, stop: watch::Sender::new(false), tasks: JoinSet::new() }
    }

    /// Starts a task; `task` is given what to stop by.
    pub(super) fn spawn<F>(&mut self, task: impl FnOnce(StopSignal) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn_retirable(|stop| {
            let task = task(stop);
            async move {
                task.await;
                Ending::Unasked
            }
        });
    }

    /// The same of one that may be taken away while the others go on.
    pub(super) fn spawn_retirable<F>(&mut self, task: impl FnOnce(StopSignal) -> F)
    where
        F: Future<Output = Ending> + Send + 'static,
    {
        let mut stopped = self.stop.subscribe();
        let signal = async move {
            // An error means that the stage itself is gone: then everything is to stop.
            stopped.wait_for(|stop| *stop).await.map(drop).unwrap_or_default();
        };
        self.tasks.spawn(task(Box::pin(signal)));
    }

    /// Resolves when a task ends although nobody asked it to: the node cannot do without any of them.
    pub(super) async fn failed(&mut self) -> &'static str {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(Ending::Retired)) => {}
                Some(outcome) => {
                    report(self.name, outcome.err());
                    return self.name;
                }
                None => std::future::pending().await,
            }
        }
    }

    /// Asks all tasks to stop and waits for them until `deadline`; then they are dropped where they are.
    pub(super) async fn stop(mut self, deadline: Instant) {
        self.stop.send_replace(true);
        let all = async {
            while let Some(outcome) = self.tasks.join_next().await {
                if let Err(error) = outcome {
                    report(self.name, Some(error));
                }
            }
        };
        if timeout_at(deadline, all).await.is_err() {
            warn!(stage = self.name, "not stopped in time, going on without it");
        }
    }
}

fn report(stage: &str, error: Option<JoinError>) {
    match error {
        Some(error) if error.is_panic() => error!(stage, "a task panicked"),
        Some(_) => error!(stage, "a task was cancelled"),
        None => error!(stage, "a task ended by itself"),
    }
}

/// The times by which the stages of a stop must be done: a share of what is left each, so that an early one that hangs
/// leaves time for those after it.
pub(super) struct Deadlines {
    end: Instant,
}

impl Deadlines {
    pub(super) fn within(limit: Duration) -> Deadlines {
        Deadlines { end: Instant::now() + limit }
    }

    /// `part` of the time left.
    pub(super) fn share(&self, part: f64) -> Instant {
        let now = Instant::now();
        now + self.end.saturating_duration_since(now).mul_f64(part)
    }

    /// All of it.
    pub(super) fn rest(&self) -> Instant {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[tokio::test(start_paused = true)]
    async fn a_stage_waits_for_its_tasks() {
        let done = Arc::new(AtomicBool::new(false));
        let mut stage = Stage::new("test");
        let flag = Arc::clone(&done);
        stage.spawn(|stop| async move {
            stop.await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            flag.store(true, Ordering::SeqCst);
        });
        stage.stop(Deadlines::within(Duration::from_secs(10)).rest()).await;
        assert!(done.load(Ordering::SeqCst));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_hangs_is_left_behind() {
        let mut stage = Stage::new("test");
        stage.spawn(|_stop| std::future::pending());
        let before = Instant::now();
        stage.stop(Deadlines::within(Duration::from_secs(10)).share(0.5)).await;
        assert_eq!(before.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test]
    async fn a_task_that_panics_or_ends_is_noticed() {
        let mut stage = Stage::new("test");
        stage.spawn(|_stop| async { panic!("on purpose") });
        assert_eq!(stage.failed().await, "test");
        stage.spawn(|_stop| async {});
        assert_eq!(stage.failed().await, "test");
        stage.spawn_retirable(|_stop| async { Ending::Retired });
        stage.spawn(|_stop| async {});
        assert_eq!(stage.failed().await, "test");
    }
}
