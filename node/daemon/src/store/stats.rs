//! `store stats`: what is there, and how much of it.

use super::args::Stats;
use super::print_json;
use super::source::Source;
use crate::exit::Failure;
use eventmesh_edge_core::event::Timestamp;
use eventmesh_edge_core::mapping::format_rfc3339;
use eventmesh_edge_store::inspect::{ConsumerReport, StoreReport, StreamReport};

/// Prints the figures.
pub(super) fn stats(args: &Stats) -> Result<(), Failure> {
    let report = Source::open(&args.place)?.report();
    if args.json {
        return print_json(&report);
    }
    print!("{}", render(&report));
    Ok(())
}

fn render(report: &StoreReport) -> String {
    let state = if report.running { "open in a running node" } else { "no node has it open" };
    let mut lines = vec![format!(
        "{}: log {} epoch {}, {state}, {} journal segments, {} generations with {} events",
        report.data_dir,
        report.log,
        report.epoch,
        report.segments.len(),
        report.generations.len(),
        report.generations.iter().map(|g| g.events).sum::<u64>(),
    )];
    lines.extend(report.streams.iter().flat_map(stream));
    let s = &report.state;
    lines.push(format!(
        "sessions {}, subscriptions {}, retained {}, in flight {}; mailboxes {} with {} messages, {} bytes",
        s.sessions, s.subscriptions, s.retained, s.in_flight, s.mailboxes, s.mailbox_events, s.mailbox_bytes
    ));
    for line in &report.ledger {
        let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "-".to_owned());
        lines.push(format!(
            "lost {}: {} events, {} bytes, stream {}, uplink {}, positions {} to {}",
            line.reason,
            line.events,
            line.bytes,
            name(&line.stream),
            name(&line.uplink),
            line.first,
            line.last
        ));
    }
    for kind in &report.disk {
        lines.push(format!("disk {}: {} files, {} bytes", kind.kind, kind.files, kind.bytes));
    }
    lines.join("\n") + "\n"
}

fn stream(stream: &StreamReport) -> Vec<String> {
    let range = match (&stream.first, &stream.last) {
        (Some(first), Some(last)) => {
            format!("positions {first} to {last}, oldest of {}", time(stream.oldest_ms))
        }
        _ => format!("newest position {}", stream.newest),
    };
    let head =
        format!("stream {}: {} events, {} bytes on disk, {range}", stream.name, stream.events, stream.bytes);
    std::iter::once(head).chain(stream.consumers.iter().map(consumer)).collect()
}

fn consumer(consumer: &ConsumerReport) -> String {
    let who = consumer.uplink.as_deref().map_or("no uplink yet".to_owned(), |name| format!("uplink {name}"));
    let oldest = consumer.oldest_ms.map(|_| format!(", oldest of {}", time(consumer.oldest_ms)));
    format!(
        "  {who}: cursor {}, {} events, {} bytes wait{}",
        consumer.cursor,
        consumer.events,
        consumer.bytes,
        oldest.unwrap_or_default()
    )
}

pub(super) fn time(ms: Option<u64>) -> String {
    ms.and_then(|ms| format_rfc3339(Timestamp(ms))).unwrap_or_else(|| "?".to_owned())
}
