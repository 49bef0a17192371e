//! The hub as a program: says its port in one JSON line, then shows what arrives.

use clap::Parser;
use eventmesh_edge_hub::{Hub, HubError, Message, Options, TRAPS};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Upstream hub of the quickstart and of tests: an MQTT 5 broker that shows what arrives
#[derive(Debug, Parser)]
#[command(name = "eventmesh-edge-hub", after_help = TRAPS)]
struct Args {
    /// Where to listen for MQTT 5; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where to listen for MQTT 3.1.1 as well
    #[arg(long)]
    listen_v4: Option<SocketAddr>,
    /// Prints each event as one JSON line
    #[arg(long)]
    json: bool,
    /// Prints no events; with --log for audits
    #[arg(long)]
    quiet: bool,
    /// Appends one line per event to a file: source id sequence edgeseq topic
    #[arg(long)]
    log: Option<PathBuf>,
    /// Ends after so many events; the nodes' own (docs/node-events.md) do not count
    #[arg(long)]
    count: Option<u64>,
}

/// What is written is handed on when nothing new came for so long.
const FLUSH_AFTER: Duration = Duration::from_millis(20);

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Hub(#[from] HubError),
    #[error("write: {0}")]
    Write(#[from] io::Error),
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        // Whoever reads has gone: that is how the quickstart ends its hub.
        Ok(()) | Err(Failure::Write(_)) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("eventmesh-edge-hub: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Failure> {
    let options = Options { listen: args.listen, listen_v4: args.listen_v4, ..Options::default() };
    let mut log =
        args.log.as_ref().map(|path| File::options().create(true).append(true).open(path)).transpose()?;
    let mut log = log.as_mut().map(BufWriter::new);
    let mut hub = Hub::start(&options)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let port_v4 = hub.address_v4().map(|a| a.port());
    writeln!(out, "{}", serde_json::json!({ "port": hub.address().port(), "port_v4": port_v4 }))?;
    out.flush()?;
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        match hub.next(Instant::now() + FLUSH_AFTER)? {
            None => {
                out.flush()?;
                log.as_mut().map(Write::flush).transpose()?;
            }
            Some(message) => {
                left -= u64::from(!message.is_about_a_node());
                show(args, &message, &mut out)?;
                log.as_mut().map(|log| writeln!(log, "{}", message.audit_line())).transpose()?;
            }
        }
    }
    out.flush()?;
    log.as_mut().map(Write::flush).transpose()?;
    Ok(())
}

fn show(args: &Args, message: &Message, out: &mut impl Write) -> io::Result<()> {
    if args.quiet {
        Ok(())
    } else if args.json {
        writeln!(out, "{}", message.to_json())
    } else {
        writeln!(out, "{message}")
    }
}
