//! The stand-in as a program, for benchmarks and for trying a node by hand. It is not EventMesh: it stores nothing.
//!
//! Prints where it listens, then every second how many events have come, until it is interrupted.

use eventmesh_edge_standin::StandIn;
use std::time::Duration;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let standin = StandIn::start();
    standin.count_only();
    println!("{}", standin.addr());
    let mut last = 0;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let count = standin.count();
        if count != last {
            println!("{count} events, {} in the last second", count - last);
            last = count;
        }
    }
}
