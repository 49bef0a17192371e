//! Another set of consumers, as a commit of its own between two groups.

use super::Core;
use crate::engine::Finished;
use crate::journal::writer::Writer;
use eventmesh_edge_core::ports::store::{Reshape, ReshapeError};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

impl Core {
    /// Makes the change durable and then takes it over, or leaves everything as it is. What the groups on the way finish is
    /// given to `deliver`; watchers are to hear of room afterwards, for a budget may have grown.
    pub(crate) fn reshape(
        &self,
        writer: &mut Writer,
        change: &Reshape,
        deliver: &mut dyn FnMut(Finished),
    ) -> Result<(), ReshapeError> {
        let reshaping = loop {
            // A statement of its own: the lock must not be held over the group.
            let begun = self.engine().begin_reshape(change)?;
            if let Some(reshaping) = begun {
                break reshaping;
            }
            self.group_of_own(writer, deliver)?;
        };
        while self.engine().is_reshaping() {
            if let Err(error) = self.group_of_own(writer, deliver) {
                self.engine().withdraw(&reshaping);
                return Err(error);
            }
        }
        self.engine().end_reshape(reshaping);
        deliver(Finished { room: true, maintain: true, ..Finished::default() });
        Ok(())
    }

    /// One group of what the store itself has to commit.
    fn group_of_own(
        &self,
        writer: &mut Writer,
        deliver: &mut dyn FnMut(Finished),
    ) -> Result<(), ReshapeError> {
        let round = self.commit_group(writer, &mut VecDeque::new());
        deliver(round.finished);
        if round.failed { Err(failed()) } else { Ok(()) }
    }
}

/// The cause is in the log already, where the group failed.
fn failed() -> ReshapeError {
    ReshapeError::Io(Arc::new(io::Error::other("the change could not be written to the journal")))
}
