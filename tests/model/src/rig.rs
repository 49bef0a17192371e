//! The node under test: client table, hub and the real store over a simulated disk, wired as the daemon wires them. It
//! moves only when it is told to: commits complete when the disk gets its turn, time is a number.

use crate::mutant::{Mutant, Mutated};
use eventmesh_edge_contract::Rng;
use eventmesh_edge_contract::suite::support::{spec_of, stream};
use eventmesh_edge_core::event::Timestamp;
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::hub::Hub;
use eventmesh_edge_core::ports::store::{Store, StreamId, WhenFull};
use eventmesh_edge_core::route::Router;
use eventmesh_edge_ingress_mqtt::session::Limits;
use eventmesh_edge_ingress_mqtt::{SessionOptions, Sessions};
use eventmesh_edge_runtime::hub::{HubOptions, NodeHub};
use eventmesh_edge_sim::{Backend, JournalBackend};
use std::cell::Cell;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// When the world begins: 2026-09-21T14:13:20Z.
const START: Timestamp = Timestamp(1_790_000_000_000);

/// Both clocks of the node, turned by hand. It goes on while the node is off.
#[derive(Default)]
pub(crate) struct VirtualClock(Mutex<Duration>);

impl VirtualClock {
    fn elapsed(&self) -> Duration {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn advance(&self, by: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        START.after(self.elapsed())
    }

    fn monotonic(&self) -> Duration {
        self.elapsed()
    }
}

/// One life of the node.
pub(crate) struct Life {
    store: Arc<dyn Store>,
    pub(crate) hub: Arc<dyn Hub>,
    pub(crate) sessions: Arc<Sessions>,
    task: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

/// The machine it runs on.
pub(crate) struct Rig {
    runtime: Runtime,
    clock: Arc<VirtualClock>,
    disk: JournalBackend,
    rng: Rng,
    mutant: Option<Mutant>,
    pub(crate) limits: Limits,
    pub(crate) life: Life,
    connections: Cell<u64>,
}

impl Rig {
    pub(crate) fn new(seed: u64, mutant: Option<Mutant>) -> Rig {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime without I/O needs nothing from the machine");
        let clock = Arc::new(VirtualClock::default());
        let mut disk = JournalBackend::new(seed, 0);
        let mut rng = Rng::new(seed ^ 0x7269_6700);
        let life = start(&runtime, &mut disk, &clock, mutant);
        let window = [3, 20, 100][rng.index(3)];
        // Time passes in leaps here, which no CONNECT should have to answer for.
        let connect_timeout = Duration::from_secs(1 << 20);
        let limits = Limits { anonymous: true, send_window: window, connect_timeout, ..Limits::default() };
        let mut rig = Rig { runtime, clock, disk, rng, mutant, limits, life, connections: Cell::new(0) };
        rig.run_hub();
        rig
    }

    /// A number for a new connection.
    pub(crate) fn next_connection(&self) -> u64 {
        self.connections.update(|last| last + 1);
        self.connections.get()
    }

    pub(crate) fn now(&self) -> Duration {
        self.clock.elapsed()
    }

    pub(crate) fn wall(&self) -> Timestamp {
        self.clock.now()
    }

    /// Lets the hub do what it can without the disk.
    pub(crate) fn run_hub(&mut self) {
        self.runtime.block_on(async {
            for _ in 0..6 {
                tokio::task::yield_now().await;
            }
        });
    }

    /// The disk makes up to `n` commits durable.
    pub(crate) fn disk(&mut self, n: usize) {
        self.disk.complete(n);
        self.run_hub();
    }

    /// Commits under way.
    pub(crate) fn pending(&self) -> usize {
        self.disk.pending()
    }

    pub(crate) fn advance(&mut self, by: Duration) {
        self.clock.advance(by);
        self.runtime.block_on(tokio::time::advance(by));
        self.life.store.tick(self.clock.now());
        self.life.sessions.tick();
        self.run_hub();
    }

    /// The power goes; some of what was under way may be durable all the same. Later the node starts again.
    pub(crate) fn power_cut(&mut self, downtime: Duration) {
        self.life.task.abort();
        self.disk.power_cut(&mut self.rng);
        self.clock.advance(downtime);
        self.life = start(&self.runtime, &mut self.disk, &self.clock, self.mutant);
        self.run_hub();
    }

    /// An ordered stop, after the clients have been told, and a start.
    pub(crate) fn restart(&mut self, downtime: Duration) {
        while self.pending() > 0 {
            self.disk(usize::MAX);
        }
        let (nobody, _) = oneshot::channel();
        drop(std::mem::replace(&mut self.life.stop, nobody));
        for _ in 0..4 {
            self.disk(usize::MAX);
        }
        self.life.task.abort();
        self.life.store.close();
        self.clock.advance(downtime);
        self.life = start(&self.runtime, &mut self.disk, &self.clock, self.mutant);
        self.run_hub();
    }
}

fn start(
    runtime: &Runtime,
    disk: &mut JournalBackend,
    clock: &Arc<VirtualClock>,
    mutant: Option<Mutant>,
) -> Life {
    let store = disk.open(spec_of([stream("all", &[], 1 << 20, WhenFull::DropOldest)]));
    let router = Router::new(Vec::new(), Some(StreamId(0))).expect("no routes, nothing wrong with them");
    let port: Arc<dyn Clock> = clock.clone();
    let node = HubOptions::new("model".into());
    let real = NodeHub::new(node, store.clone(), router, port.clone());
    real.restore().expect("the simulated disk can be read");
    let (stop, stopped) = oneshot::channel::<()>();
    let task = runtime.spawn(real.clone().run(async { drop(stopped.await) }));
    let hub: Arc<dyn Hub> = match mutant {
        Some(mutant) => Arc::new(Mutated::new(real, mutant)),
        None => real,
    };
    let sessions = Arc::new(Sessions::new(hub.clone(), port, SessionOptions::default()));
    sessions.restore(&&*store).expect("the simulated disk can be read");
    Life { store, hub, sessions, task, stop }
}
