//! The routes in force, for whoever looks up what the hub has routed: the hub itself has its own copy.

use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::Via;
use eventmesh_edge_core::route::Router;
use std::sync::{PoisonError, RwLock};

/// A router that another one may take the place of.
#[derive(Debug, Default)]
pub struct LiveRouter(RwLock<Router>);

impl LiveRouter {
    /// With this one to begin with.
    #[must_use]
    pub fn new(router: Router) -> LiveRouter {
        LiveRouter(RwLock::new(router))
    }

    /// Another one from now on.
    pub fn set(&self, router: Router) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = router;
    }

    /// [`Router::kind_for`] by the routes in force.
    #[must_use]
    pub fn kind_for(&self, topic: &str, via: Via) -> Text {
        self.0.read().unwrap_or_else(PoisonError::into_inner).kind_for(topic, via)
    }
}
