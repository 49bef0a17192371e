//! `$SYS` as a task: at each interval the figures that have changed go to the hub, retained in memory. What a full stream
//! refused was not said, and is said the next time; it is no loss.

use eventmesh_edge_core::Text;
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::hub::{Hub, Publication, Submission};
use eventmesh_edge_core::telemetry::{SysFigures, SysTopics, node_source};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

/// Where the figures are. Called from the runtime's thread: figures that are in memory.
pub trait SysSource: Send + Sync {
    /// All of them, now.
    fn figures(&self) -> SysFigures;
}

/// Publishes until `stop` is ready. `every` is not zero.
pub async fn publish(
    node: Text,
    every: Duration,
    hub: Arc<dyn Hub>,
    clock: Arc<dyn Clock>,
    figures: Arc<dyn SysSource>,
    stop: impl Future<Output = ()>,
) {
    let mut stop = pin!(stop);
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let source = node_source(&node);
    let mut topics = SysTopics::default();
    let refused = Arc::new(AtomicBool::new(false));
    loop {
        tokio::select! {
            () = &mut stop => return,
            _ = ticks.tick() => {}
        }
        if refused.swap(false, Ordering::Relaxed) {
            topics.unsaid();
        }
        let messages = topics.messages(&source, &figures.figures(), clock.now());
        let publications = messages.into_iter().map(|event| Publication { event, publisher: None }).collect();
        // A route may name `$SYS`; if its stream has no room, this moment's figures are no loss.
        let submission = Submission { publications, refuse_when_full: true, ..Submission::default() };
        let refused = refused.clone();
        hub.submit(submission, Box::new(move |result| refused.store(result.is_err(), Ordering::Relaxed)));
    }
}
