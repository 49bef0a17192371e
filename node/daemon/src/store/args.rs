//! What `eventmesh-edge store` takes.

use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Store {
    #[command(subcommand)]
    pub(crate) command: StoreCommand,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done; verify: sound (a torn tail is no damage)
  1  verify: damage found. dump, export: something could not be read. import: stopped, the message has the line
  2  not possible: command line, no store there, in use, not readable, of a later version; the message says what to do

docs/store-cli.md has the whole story.";

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Check every checksum in every kind of file; changes nothing
    Verify(Verify),
    /// Do what a start does about damage: set it aside, count it in the loss ledger, cut a torn tail off
    Repair(Repair),
    /// List events
    Dump(Dump),
    /// Write events as CloudEvents, one JSON line each
    Export(Export),
    /// Put exported events into the store of a stopped node
    Import(Import),
    /// Streams, cursors, ledger, room on disk
    Stats(Stats),
}

/// Where the store is.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The data directory
    #[arg(short, long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The node's configuration file
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Copies of databases are made here while they are looked at [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) scratch: Option<PathBuf>,
    /// No progress on standard error
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) place: Place,
    /// One JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Repair {
    #[command(flatten)]
    pub(crate) place: Place,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// One JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Stats {
    #[command(flatten)]
    pub(crate) place: Place,
    /// One JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which events.
#[derive(Debug, Args)]
pub(crate) struct Choice {
    /// Only of this stream (repeatable)
    #[arg(short, long, value_name = "NAME")]
    pub(crate) stream: Vec<String>,
    /// Begin with this position, as `3.118`
    #[arg(long, value_name = "POSITION")]
    pub(crate) from: Option<String>,
    /// End with this position
    #[arg(long, value_name = "POSITION")]
    pub(crate) to: Option<String>,
    /// Only topics that match this filter
    #[arg(short, long, value_name = "FILTER")]
    pub(crate) topic: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Dump {
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) choice: Choice,
    /// Payloads too
    #[arg(short, long)]
    pub(crate) payload: bool,
    /// At most so many events
    #[arg(short = 'n', long, value_name = "EVENTS")]
    pub(crate) limit: Option<u64>,
    /// One JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) choice: Choice,
    /// To this file, which must not exist, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Append to the file: with --from, goes on where an export ended
    #[arg(long, requires = "output")]
    pub(crate) append: bool,
    /// Everything on disk, and not only what an uplink still waits for
    #[arg(long)]
    pub(crate) all: bool,
    /// The summary at the end as JSON (on standard error if the events go to standard output)
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a (source, id) that comes a second time does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Duplicates {
    /// Stops there
    Refuse,
    /// Is left out, and counted
    Skip,
    /// Is stored again; nothing is remembered for it
    Keep,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    #[command(flatten)]
    pub(crate) place: Place,
    /// The exported file; `-` for standard input
    #[arg(value_name = "FILE")]
    pub(crate) input: PathBuf,
    /// Into this stream, whatever the lines say
    #[arg(short, long, value_name = "NAME")]
    pub(crate) stream: Option<String>,
    /// What a (source, id) that comes a second time in the file does
    #[arg(long, value_enum, default_value = "refuse")]
    pub(crate) duplicates: Duplicates,
    /// Begin with this line (from 1): goes on where an import stopped
    #[arg(long, value_name = "LINE", default_value_t = 1)]
    pub(crate) from_line: u64,
    /// Check every line, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// The summary at the end as JSON
    #[arg(long)]
    pub(crate) json: bool,
}
