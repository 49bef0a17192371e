//! What the end-to-end tests share: the node and the hub as real processes, a TCP proxy with real faults, an MQTT client
//! that keeps its own books, and an auditor at the upstream.
//!
//! Nothing here is a mock: the node is the built binary, kills are SIGKILL, clients speak over loopback TCP. Ports are
//! free ones that the system chose.

pub mod audit;
pub mod bodies;
pub mod node;
pub mod proxy;
pub mod raw;
pub mod receivers;
pub mod tools;

use std::time::Duration;

/// How long a test waits for something that must happen before it calls it lost. Generous: machines are shared.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a test returns; the message says what was awaited.
pub type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Waits until `probe` gives a value, asking again every few milliseconds.
///
/// # Errors
/// After [`PATIENCE`], with `what`.
pub async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> Result<T> {
    let poll = async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, poll).await.map_err(|_| format!("never happened: {what}").into())
}
