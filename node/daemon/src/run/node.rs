//! The node: everything that runs, wired once, stopped in order.

use super::desk::Desk;
use super::listeners::Listeners;
use super::live::{Asked, Changes, Lane, Live, Source};
use super::observe::{Current, Observer, Phase};
use super::stage::{Deadlines, Stage};
use super::uplinks::{Built, Parts};
use super::{floor, store, sys, telemetry, uplinks};
use anyhow::Context;
use eventmesh_edge_admin::Server;
use eventmesh_edge_config::{Config, Slots};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::hub::Hub;
use eventmesh_edge_core::ports::store::Store;
use eventmesh_edge_runtime::clock::SystemClock;
use eventmesh_edge_runtime::hub::{HubOptions, NodeHub};
use eventmesh_edge_runtime::routes::LiveRouter;
use eventmesh_edge_runtime::telemetry::{Reporter, StopCause};
use std::collections::HashMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tracing::{info, warn};

/// The store looks at what is due by time (expiry, checkpoints) this often.
const TICK: Duration = Duration::from_secs(1);

/// Everything built and bound, nothing running.
pub(super) struct Node {
    config: Config,
    source: Source,
    slots: Slots,
    store: store::Store,
    parts: Parts,
    uplinks: Vec<Built>,
    admin: Server,
    listeners: Listeners,
}

impl Node {
    /// Opens and binds. The order matters: the store first, for it holds the lock of the data directory; what lets
    /// devices in last.
    pub(super) fn build(config: Config, source: Source) -> anyhow::Result<Node> {
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
        let routes = Arc::new(LiveRouter::new(router));
        let slots = Slots::of(&config);
        let parts = Parts {
            store: Arc::clone(&store),
            clock: Arc::clone(&clock),
            hub: Arc::clone(&hub),
            routes,
            floor,
        };
        let uplinks = uplinks::build(&config, &slots, &parts)?;
        let admin = Server::bind(&config.admin.socket).context("bind the admin socket")?;
        let listeners = Listeners::bind(&config, Arc::clone(&hub) as Arc<dyn Hub>, &store, &clock)?;
        Ok(Node { config, source, slots, store: opened, parts, uplinks, admin, listeners })
    }

    /// Starts all of it; from the log line `ready` on, devices are served.
    pub(super) fn start(self) -> Running {
        let Node { config, source, slots, store: opened, parts, uplinks, admin, listeners } = self;
        let Parts { clock, hub, floor, .. } = parts.clone();
        let spec = config.store_spec();
        let limit = config.node.stop_timeout;
        let socket = config.admin.socket.clone();
        let dir = config.node.data_dir.clone();
        let (forwards, views): (Vec<_>, Vec<_>) =
            uplinks.into_iter().map(|Built { forward, view }| (forward, view)).unzip();
        let current = Current { config, slots, uplinks: views, draining: Vec::new() };
        let observer = Arc::new(Observer {
            store: Arc::clone(&opened.port),
            clock: Arc::clone(&clock),
            hub: Arc::clone(&hub),
            started: clock.monotonic(),
            listeners: listeners.views(),
            ingress: listeners.stats(),
            phase: Phase::default(),
            current: RwLock::new(Arc::new(current)),
        });
        let ready = listeners.urls().join(" ");
        let reporter = telemetry::reporter(&observer, &opened);
        let stop_cause = reporter.as_ref().map(Reporter::stop_cause).unwrap_or_default();
        let tells = reporter.is_some();
        let store = Arc::clone(&opened.port);

        let mut upkeep = Stage::new("admin");
        let source_of_status = Arc::clone(&observer);
        let desk =
            Arc::new(Desk { store: Arc::clone(&opened.journal), dir, routes: Arc::clone(&parts.routes) });
        let (changes, asked) = Changes::channel();
        let asks = Arc::new(changes.clone());
        upkeep
            .spawn(|stop| until(stop, async move { admin.run_with_all(source_of_status, desk, asks).await }));
        upkeep.spawn(|stop| until(stop, tick(Arc::clone(&store), clock)));
        upkeep.spawn(|stop| until(stop, floor::keep(floor, Arc::clone(&store))));
        let mut telling = Stage::new("telemetry");
        if let Some(reporter) = reporter {
            telling.spawn(|stop| reporter.run(stop));
        }
        sys::spawn(&observer, &mut telling);
        let mut forwarding = Stage::new("uplinks");
        let names =
            observer.current().uplinks.iter().map(|view| view.config.name.to_string()).collect::<Vec<_>>();
        let lanes = forwards.into_iter().map(|forward| Lane::start(&mut forwarding, forward));
        let lanes: HashMap<String, Lane> = names.into_iter().zip(lanes).collect();
        let live = Live::new(source, parts, Arc::clone(&observer), spec, lanes);
        let mut hubbing = Stage::new("hub");
        hubbing.spawn(|stop| hub.run(stop));
        let mut listening = Stage::new("listeners");
        listeners.spawn(&mut listening, changes);

        observer.phase.ready();
        info!(listeners = %ready, admin = %socket.display(), pid = std::process::id(), "ready");
        Running {
            limit,
            store,
            observer,
            opened,
            live,
            asked,
            is_telling: tells,
            stop_cause,
            listening,
            hubbing,
            telling,
            forwarding,
            upkeep,
        }
    }
}

/// The node at work.
pub(super) struct Running {
    limit: Duration,
    store: Arc<dyn Store>,
    observer: Arc<Observer>,
    opened: store::Store,
    live: Live,
    asked: mpsc::Receiver<Asked>,
    /// Somebody tells the node's own events.
    is_telling: bool,
    stop_cause: StopCause,
    listening: Stage,
    hubbing: Stage,
    telling: Stage,
    forwarding: Stage,
    upkeep: Stage,
}

impl Running {
    /// Changes what it is asked to; resolves, with the name of its stage, when a task ends that the node cannot do without.
    pub(super) async fn failed(&mut self) -> &'static str {
        let mut looks = interval(TICK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                stage = self.listening.failed() => return stage,
                stage = self.hubbing.failed() => return stage,
                stage = self.telling.failed() => return stage,
                stage = self.forwarding.failed() => return stage,
                stage = self.upkeep.failed() => return stage,
                Some(asked) = self.asked.recv() => {
                    self.live.answer(asked, &mut self.forwarding).await;
                    self.tell();
                }
                _ = looks.tick(), if self.live.is_draining() => self.live.look_after_drains().await,
            }
        }
    }

    /// The first uplink brings somebody who hears the node's own events.
    fn tell(&mut self) {
        if self.is_telling {
            return;
        }
        if let Some(reporter) = telemetry::reporter(&self.observer, &self.opened) {
            self.stop_cause = reporter.stop_cause();
            self.telling.spawn(|stop| reporter.run(stop));
            self.is_telling = true;
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
