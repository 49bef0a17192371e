//! `eventmesh-edge run`: parse, build, wire, run, drain.

#[cfg(feature = "coap")]
mod coap;
mod desk;
mod floor;
mod listeners;
mod live;
mod node;
mod observe;
mod rest;
mod signals;
mod stage;
mod store;
mod sys;
mod telemetry;
#[cfg(feature = "eventmesh")]
mod uplink_eventmesh;
#[cfg(feature = "http")]
mod uplink_http;
mod uplinks;

use crate::exit::Failure;
use crate::{cli, log, panics, system};
use anyhow::Context;
use eventmesh_edge_config::{Config, Overrides, ProcessEnvironment};
use live::Source;
use node::Node;
use signals::Signals;
use tokio::runtime::Runtime;
use tracing::{error, info, warn};

/// Runs the node until a signal, or until something breaks that it cannot do without.
pub(crate) fn run(args: &cli::Run) -> Result<(), Failure> {
    let overrides = Overrides { data_dir: args.data_dir.clone(), listen: args.listen.clone() };
    let config = Config::load(args.config.as_deref(), &ProcessEnvironment, &overrides);
    let config = config.map_err(|error| Failure::CannotStart(error.into()))?;
    log::start(&config.log);
    panics::install();
    announce(args, &config);
    let runtime = runtime().context("start tokio").map_err(Failure::CannotStart)?;
    let source = Source { file: args.config.clone(), overrides };
    let outcome = runtime.block_on(until_stopped(config, source));
    // What still blocks by now (a name lookup, a password check) answers nobody any more.
    runtime.shutdown_background();
    outcome
}

/// The first lines of the log: what it does, and what is missing.
fn announce(args: &cli::Run, config: &Config) {
    let file = args.config.as_ref().map(|path| path.display().to_string());
    info!(
        version = env!("CARGO_PKG_VERSION"),
        config = file.as_deref().unwrap_or("none, defaults"),
        "starting"
    );
    for line in config.summary() {
        info!("{line}");
    }
    for warning in &config.warnings {
        warn!("{warning}");
    }
    let files = system::raise_open_files();
    info!(before = files.before, now = files.now, "open files limit (RLIMIT_NOFILE)");
}

/// One thread for sessions and uplinks; a few more, small and only while needed, for what blocks: name lookups and
/// password hashes.
fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_park(rest::before_park)
        .thread_name("edge-blocking")
        .max_blocking_threads(4)
        .thread_stack_size(512 << 10)
        .build()
}

/// Builds, runs, and stops in order at the first signal, at once at the second.
async fn until_stopped(config: Config, source: Source) -> Result<(), Failure> {
    let mut signals = Signals::catch().context("catch signals").map_err(Failure::CannotStart)?;
    let mut node = Node::build(config, source).map_err(Failure::CannotStart)?.start();
    system::notify("READY=1");
    let (cause, failed) = tokio::select! {
        signal = signals.next() => { info!(signal, "stopping"); (signal, None) }
        stage = node.failed() => ("a part of the node has failed", Some(stage)),
        () = panics::thread_died() => ("the store has failed", Some("store")),
    };
    system::notify("STOPPING=1");
    if let Err(error) = signals::end_at_the_next() {
        warn!(%error, "a second signal cannot be obeyed at once");
    }
    node.stop(cause).await;
    info!("stopped");
    match failed {
        None => Ok(()),
        Some(stage) => {
            error!(stage, "this is why the node ended");
            Err(Failure::Bug)
        }
    }
}
