//! The node: everything that runs, wired once, stopped in order.

use super::listeners::Listeners;
use super::observe::{Observer, Phase};
use super::stage::{Deadlines, Stage};
use super::{store, uplinks};
use anyhow::Context;
use eventmesh_edge_admin::Server;
use eventmesh_edge_config::Config;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::hub::Hub;
use eventmesh_edge_core::ports::store::Store;
use eventmesh_edge_runtime::clock::SystemClock;
use eventmesh_edge_runtime::forward::Forward;
use eventmesh_edge_runtime::hub::{HubOptions, NodeHub};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tracing::{info, warn};

/// The store looks at what is due by time (expiry, checkpoints) this often.
const TICK: Duration = Duration::from_secs(1);

/// Everything built and bound, nothing running.
pub(super) struct Node {
    config: Config,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    hub: Arc<NodeHub>,
    uplinks: Vec<Forward>,
    admin: Server,
    listeners: Listeners,
}

impl Node {
    /// Opens and binds. The order matters: the store first, for it holds the lock of the data directory; what lets
    /// devices in last.
    pub(super) fn build(config: Config) -> anyhow::Result<Node> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let store = store::open(&config, &clock)?;
        let router = config.router()?;
        let options = HubOptions {
            retained_max_bytes: config.session.retained_max_bytes.as_usize(),
            ..HubOptions::new(Text::from(config.node.name.to_string()))
        };
        let hub = NodeHub::new(options, Arc::clone(&store), router.clone(), Arc::clone(&clock));
        hub.restore().context("load retained messages")?;
        let parts = uplinks::Parts { store: &store, clock: &clock, hub: &hub, router };
        let uplinks = uplinks::build(&config, &parts)?;
        let admin = Server::bind(&config.admin.socket).context("bind the admin socket")?;
        let listeners = Listeners::bind(&config, Arc::clone(&hub) as Arc<dyn Hub>, &store, &clock)?;
        Ok(Node { config, store, clock, hub, uplinks, admin, listeners })
    }

    /// Starts all of it; from the log line `ready` on, devices are served.
    pub(super) fn start(self) -> Running {
        let observer = Arc::new(self.observer());
        let Node { config, store, clock, hub, uplinks, admin, listeners } = self;
        let ready = listeners.urls().join(" ");

        let mut upkeep = Stage::new("admin");
        let source = Arc::clone(&observer);
        upkeep.spawn(|stop| until(stop, async move { admin.run(source).await }));
        upkeep.spawn(|stop| until(stop, tick(Arc::clone(&store), clock)));
        let mut forwarding = Stage::new("uplinks");
        for uplink in uplinks {
            forwarding.spawn(|stop| uplink.run(stop));
        }
        let mut hubbing = Stage::new("hub");
        hubbing.spawn(|stop| hub.run(stop));
        let mut listening = Stage::new("listeners");
        listeners.spawn(&mut listening);

        observer.phase.ready();
        info!(listeners = %ready, admin = %config.admin.socket.display(), pid = std::process::id(), "ready");
        Running { limit: config.node.stop_timeout, store, observer, listening, hubbing, forwarding, upkeep }
    }

    fn observer(&self) -> Observer {
        Observer {
            config: self.config.clone(),
            store: Arc::clone(&self.store),
            clock: Arc::clone(&self.clock),
            hub: Arc::clone(&self.hub),
            started: self.clock.monotonic(),
            listeners: self.listeners.views(),
            uplinks: self.uplinks.iter().map(Forward::handle).collect(),
            phase: Phase::default(),
        }
    }
}

/// The node at work.
pub(super) struct Running {
    limit: Duration,
    store: Arc<dyn Store>,
    observer: Arc<Observer>,
    listening: Stage,
    hubbing: Stage,
    forwarding: Stage,
    upkeep: Stage,
}

impl Running {
    /// Resolves, with the name of its stage, when a task ends that the node cannot do without.
    pub(super) async fn failed(&mut self) -> &'static str {
        tokio::select! {
            stage = self.listening.failed() => stage,
            stage = self.hubbing.failed() => stage,
            stage = self.forwarding.failed() => stage,
            stage = self.upkeep.failed() => stage,
        }
    }

    /// Stops in order, within the configured time: nobody and nothing new comes in, what is in is committed and
    /// answered, what is on its way up is awaited, the store is closed. `status` answers to the end.
    pub(super) async fn stop(self) {
        self.observer.phase.stopping();
        let deadlines = Deadlines::within(self.limit);
        self.listening.stop(deadlines.share(0.25)).await;
        self.hubbing.stop(deadlines.share(0.25)).await;
        self.forwarding.stop(deadlines.share(0.8)).await;
        close(self.store, deadlines.rest()).await;
        self.upkeep.stop(deadlines.rest()).await;
    }
}

async fn until(stop: super::stage::StopSignal, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        () = stop => {}
    }
}

async fn tick(store: Arc<dyn Store>, clock: Arc<dyn Clock>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        store.tick(clock.now());
    }
}

/// Closing waits for the disk: off the runtime's thread.
async fn close(store: Arc<dyn Store>, deadline: Instant) {
    let closed = tokio::task::spawn_blocking(move || store.close());
    match timeout_at(deadline, closed).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%error, "the store did not close in order"),
        Err(_) => warn!("the store is still writing: left to the next start"),
    }
}
