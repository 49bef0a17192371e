//! The log: structured lines on standard error, never a payload, never a secret (P7).

use eventmesh_edge_config::{Log, LogFormat, LogLevel};
use std::io::IsTerminal;
use tracing::Level;
use tracing_subscriber::fmt;

/// Starts logging for the life of the process. A second call does nothing.
pub(crate) fn start(log: &Log) {
    let level = level(log.level);
    // Where a line comes from matters to developers only.
    let targets = level >= Level::DEBUG;
    let builder = fmt().with_max_level(level).with_target(targets).with_writer(std::io::stderr);
    let started = match log.format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
    };
    if let Err(error) = started {
        tracing::debug!(error, "already logging");
    }
}

fn level(level: LogLevel) -> Level {
    match level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Trace => Level::TRACE,
    }
}
