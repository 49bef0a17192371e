//! Where other threads put what the service is to know; one notification for all of it.

use eventmesh_edge_core::Text;
use eventmesh_edge_core::forward::Input;
use eventmesh_edge_core::ports::store::Change;
use eventmesh_edge_core::ports::uplink::{Downward, Uplink};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Outcome of one message that was handed to the sink.
#[derive(Debug)]
pub(super) struct Settled {
    /// Of which connection.
    pub(super) connection: u64,
    /// If it is durable or was dropped, how the upstream knows it (0 if it wants no answer), and why it was dropped; if it
    /// could not be kept, the message.
    pub(super) outcome: Result<(u64, Option<Text>), Downward>,
}

#[derive(Default)]
struct Contents {
    /// Bounded by what the forwarder has outstanding: one read per stream and one commit.
    inputs: Vec<Input>,
    /// Bounded by [`super::Options::downward_max`].
    settled: Vec<Settled>,
    /// The latest one only: what it replaces was never used.
    replacement: Option<Box<dyn Uplink>>,
}

#[derive(Default)]
pub(super) struct Inbox {
    contents: Mutex<Contents>,
    appended: AtomicBool,
    room: AtomicBool,
    notify: Notify,
}

impl Inbox {
    /// The store's watcher. Many changes of one round are one notification.
    pub(super) fn changed(&self, change: Change) {
        let flag = match change {
            Change::Appended => &self.appended,
            Change::Room => &self.room,
        };
        if !flag.swap(true, Ordering::AcqRel) {
            self.notify.notify_one();
        }
    }

    pub(super) fn put(&self, input: Input) {
        self.contents().inputs.push(input);
        self.notify.notify_one();
    }

    pub(super) fn settled(&self, settled: Settled) {
        self.contents().settled.push(settled);
        self.notify.notify_one();
    }

    /// Another uplink is to take the place of the one that there is.
    pub(super) fn replace(&self, uplink: Box<dyn Uplink>) {
        self.contents().replacement = Some(uplink);
        self.notify.notify_one();
    }

    pub(super) fn take_replacement(&self) -> Option<Box<dyn Uplink>> {
        self.contents().replacement.take()
    }

    /// Moves everything that has come into `inputs` and `settled`.
    pub(super) fn take(&self, inputs: &mut Vec<Input>, settled: &mut Vec<Settled>) {
        if self.appended.swap(false, Ordering::AcqRel) {
            inputs.push(Input::Appended);
        }
        let mut contents = self.contents();
        inputs.append(&mut contents.inputs);
        settled.append(&mut contents.settled);
    }

    /// True once after the store spoke of room: it may have given events up.
    pub(super) fn take_room(&self) -> bool {
        self.room.swap(false, Ordering::AcqRel)
    }

    /// Something was put in, now or since the last call.
    pub(super) fn notified(&self) -> impl Future<Output = ()> + Send {
        self.notify.notified()
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        // Nothing panics while it is held; if something ever did, what is in there is still whole.
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
