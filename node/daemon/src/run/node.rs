//! The node: everything that runs, wired once, stopped in order.

use super::desk::Desk;
use super::listeners::Listeners;
use super::observe::{Observer, Phase, UplinkView};
use super::stage::{Deadlines, Stage};
use super::uplinks::Built;
use super::{floor, store, telemetry, uplinks};
use anyhow::Context;
use eventmesh_edge_admin::Server;
use eventmesh_edge_config::Config;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::hub::Hub;
use eventmesh_edge_core::ports::store::Store;
use eventmesh_edge_core::route::Router;
use eventmesh_edge_runtime::clock::SystemClock;
use eventmesh_edge_runtime::floor::TimeFloor;
use eventmesh_edge_runtime::forward::Forward;
use eventmesh_edge_runtime::hub::{HubOptions, NodeHub};
use eventmesh_edge_runtime::telemetry::{Reporter, StopCause};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tracing::{info, warn};

/// The store looks at what is due by time (expiry, checkpoints) this often.
const TICK: Duration = Duration::from_secs(1);

/// Everything built and bound, nothing running.
pub(super) struct Node {
    config: Config,
    store: store::Store,
    clock: Arc<dyn Clock>,
    floor: Arc<TimeFloor>,
    hub: Arc<NodeHub>,
    router: Router,
    uplinks: Vec<Built>,
    admin: Server,
    listeners: Listeners,
}

impl Node {
    /// Opens and binds. The order matters: the store first, for it holds the lock of the data directory; what lets
    /// devices in last.
    pub(super) fn build(config: Config) -> anyhow::Result<Node> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let opened = store::open(&config, &clock)?;
        let store = Arc::clone(&opened.port);
        let router = config.router()?;
        let options = HubOptions {
            retained_max_bytes: config.session.retained_max_bytes.as_usize(),
            ..HubOptions::new(Text::from(config.node.name.to_string()))
        };
        let hub = NodeHub::new(options, Arc::clone(&store), router.clone(), Arc::clone(&clock));
        hub.restore().context("load retained messages")?;
        let floor = floor::open(&store, &clock).context("read the time floor")?;
        let for_uplinks = router.clone();
        let parts =
            uplinks::Parts { store: &store, clock: &clock, hub: &hub, router: for_uplinks, floor: &floor };
        let uplinks = uplinks::build(&config, &parts)?;
        let admin = Server::bind(&config.admin.socket).context("bind the admin socket")?;
        let listeners = Listeners::bind(&config, Arc::clone(&hub) as Arc<dyn Hub>, &store, &clock)?;
        Ok(Node { config, store: opened, clock, floor, hub, router, uplinks, admin, listeners })
    }

    /// Starts all of it; from the log line `ready` on, devices are served.
    pub(super) fn start(self) -> Running {
        let Node { config, store: opened, clock, floor, hub, router, uplinks, admin, listeners } = self;
        let (forwards, views) = uplinks
            .into_iter()
            .map(|Built { forward, figures }| {
                let handle = forward.handle();
                (forward, UplinkView { handle, figures })
            })
            .unzip::<_, _, Vec<Forward>, Vec<UplinkView>>();
        let observer = Arc::new(Observer {
            store: Arc::clone(&opened.port),
            clock: Arc::clone(&clock),
            hub: Arc::clone(&hub),
            started: clock.monotonic(),
            listeners: listeners.views(),
            ingress: listeners.stats(),
            uplinks: views,
            phase: Phase::default(),
            config,
        });
        let config = &observer.config;
        let ready = listeners.urls().join(" ");
        let reporter = telemetry::reporter(&observer, &opened);
        let stop_cause = reporter.as_ref().map(Reporter::stop_cause).unwrap_or_default();
        let store = opened.port;

        let mut upkeep = Stage::new("admin");
        let source = Arc::clone(&observer);
        let dir = config.node.data_dir.clone();
        let desk = Arc::new(Desk { store: opened.journal, dir, router });
        upkeep.spawn(|stop| until(stop, async move { admin.run_with_store(source, desk).await }));
        upkeep.spawn(|stop| until(stop, tick(Arc::clone(&store), clock)));
        upkeep.spawn(|stop| until(stop, floor::keep(floor, Arc::clone(&store))));
        let mut telling = Stage::new("telemetry");
        if let Some(reporter) = reporter {
            telling.spawn(|stop| reporter.run(stop));
        }
        let mut forwarding = Stage::new("uplinks");
        for forward in forwards {
            forwarding.spawn(|stop| forward.run(stop));
        }
        let mut hubbing = Stage::new("hub");
        hubbing.spawn(|stop| hub.run(stop));
        let mut listening = Stage::new("listeners");
        listeners.spawn(&mut listening);

        observer.phase.ready();
        info!(listeners = %ready, admin = %config.admin.socket.display(), pid = std::process::id(), "ready");
        let limit = config.node.stop_timeout;
        Running { limit, store, observer, stop_cause, listening, hubbing, telling, forwarding, upkeep }
    }
}

/// The node at work.
pub(super) struct Running {
    limit: Duration,
    store: Arc<dyn Store>,
    observer: Arc<Observer>,
    stop_cause: StopCause,
    listening: Stage,
    hubbing: Stage,
    telling: Stage,
    forwarding: Stage,
    upkeep: Stage,
}

impl Running {
    /// Resolves, with the name of its stage, when a task ends that the node cannot do without.
    pub(super) async fn failed(&mut self) -> &'static str {
        tokio::select! {
            stage = self.listening.failed() => stage,
            stage = self.hubbing.failed() => stage,
            stage = self.telling.failed() => stage,
            stage = self.forwarding.failed() => stage,
            stage = self.upkeep.failed() => stage,
        }
    }

    /// Stops in order, within the configured time: nobody and nothing new comes in, what is in is committed and
    /// answered, the node's own last event is sent, what is on its way up is awaited, the store is closed. `status`
    /// answers to the end.
    pub(super) async fn stop(self, cause: &str) {
        self.observer.phase.stopping();
        self.stop_cause.set(cause);
        let deadlines = Deadlines::within(self.limit);
        self.listening.stop(deadlines.share(0.25)).await;
        self.hubbing.stop(deadlines.share(0.25)).await;
        self.telling.stop(deadlines.share(0.25)).await;
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
