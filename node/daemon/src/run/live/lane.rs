//! The forwarders of one uplink, one after the other.

use crate::run::stage::{Ending, Stage, StopSignal};
use eventmesh_edge_runtime::forward::Forward;
use tokio::sync::mpsc;

/// Whoever holds it decides who forwards next. Dropped, it takes the uplink away.
pub(in crate::run) struct Lane(mpsc::UnboundedSender<Forward>);

impl Lane {
    /// Begins with this one.
    pub(in crate::run) fn start(stage: &mut Stage, first: Forward) -> Lane {
        let (orders, next) = mpsc::unbounded_channel();
        stage.spawn_retirable(|stop| run(first, next, stop));
        Lane(orders)
    }

    /// Another one takes the place of the one that there is, as soon as that has stopped in order.
    pub(in crate::run) fn follow(&self, next: Forward) {
        // Its task has ended: the stage has noticed, and the node stops.
        drop(self.0.send(next));
    }
}

/// What ended a forwarder.
enum Why {
    Itself,
    Stop,
    Order(Option<Box<Forward>>),
}

async fn run(first: Forward, mut orders: mpsc::UnboundedReceiver<Forward>, mut stop: StopSignal) -> Ending {
    let mut forward = first;
    loop {
        let mut why = Why::Itself;
        let until = async {
            tokio::select! {
                () = &mut stop => why = Why::Stop,
                order = orders.recv() => why = Why::Order(order.map(Box::new)),
            }
        };
        forward.run(until).await;
        match why {
            Why::Order(Some(next)) => forward = *next,
            Why::Order(None) => return Ending::Retired,
            Why::Stop | Why::Itself => return Ending::Unasked,
        }
    }
}
