//! Makes a fixture of the current on-disk format: a data directory with some of everything, packed into one file, as
//! left by `close` or (with `--killed`) as a killed process leaves it. Run once per format version, before it changes:
//! `cargo run -p eventmesh-edge-store --example make_fixture -- node/store/tests/fixtures/v1.lz4 [--killed]`
#![allow(
    clippy::expect_used,
    dead_code,
    reason = "a tool: what fails ends it; the test uses the rest of its modules"
)]

#[path = "../tests/versions/archive.rs"]
mod archive;
#[path = "../tests/versions/content.rs"]
mod content;

use eventmesh_edge_core::ports::store::Store;
use std::path::Path;
use std::time::Duration;

fn main() {
    let mut args = std::env::args().skip(1);
    let target = args.next().expect("where to write it");
    let killed = args.next().is_some_and(|arg| arg == "--killed");
    let dir = std::env::temp_dir().join(format!("eventmesh-edge-fixture-{}", std::process::id()));
    let store = content::open(&dir);
    content::fill(&store);
    wait_for_housekeeping(&store, &dir);
    if !killed {
        store.close();
    }
    let packed = archive::pack(&dir).expect("packed");
    drop(store);
    std::fs::write(&target, &packed).expect("written");
    std::fs::remove_dir_all(&dir).expect("removed");
    println!("{target}: {} bytes", packed.len());
}

/// The fixture is to have a generation and both checkpoints, which the store makes on a thread of its own.
fn wait_for_housekeeping(store: &dyn Store, dir: &Path) {
    let proven =
        |side: &str| dir.join(side).join("db").exists() && dir.join(format!("{side}.proof")).exists();
    while store.stats().generations == 0 || !proven("views-a") || !proven("views-b") {
        store.tick(content::NOW);
        std::thread::sleep(Duration::from_millis(20));
    }
    // Whatever else is under way.
    std::thread::sleep(Duration::from_millis(500));
}
