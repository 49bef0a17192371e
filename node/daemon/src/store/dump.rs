//! `store dump`: a listing of events, without their payloads unless they are asked for (P7).

use super::args::Dump;
use super::is_closed_pipe;
use super::source::{Source, Typed};
use super::stats::time;
use super::walk::{Selection, Walk};
use crate::exit::Failure;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use std::io::{self, BufWriter, Write};

/// One line of the listing.
#[derive(Serialize)]
struct Row<'a> {
    stream: &'a str,
    position: String,
    id: String,
    source: &'a str,
    time: Option<String>,
    topic: &'a str,
    qos: u8,
    retain: bool,
    payload_bytes: usize,
    stored_bytes: u32,
    sequence: u64,
    edgeseq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

impl<'a> Row<'a> {
    fn new(stream: &'a str, typed: &'a Typed, with_payload: bool) -> Row<'a> {
        let stored = &typed.event;
        let event = &stored.event;
        let text = std::str::from_utf8(&event.payload).ok();
        let binary = with_payload && text.is_none();
        Row {
            stream,
            position: stored.position.to_string(),
            id: stored.id().to_string(),
            source: &event.source,
            time: event.time.map(|at| time(Some(at.0))),
            topic: &event.topic,
            qos: event.qos as u8,
            retain: event.retain,
            payload_bytes: event.payload.len(),
            stored_bytes: stored.stored_bytes,
            sequence: stored.sequence.source,
            edgeseq: stored.sequence.stream,
            payload: text.filter(|_| with_payload),
            payload_base64: binary.then(|| STANDARD.encode(&event.payload)),
        }
    }

    /// Tab-separated; what a terminal would act on is escaped.
    fn line(&self) -> String {
        let time = self.time.as_deref().unwrap_or("-");
        let mut cells = vec![
            shown(self.stream),
            self.position.clone(),
            shown(&self.id),
            time.to_owned(),
            shown(self.topic),
            self.payload_bytes.to_string(),
        ];
        cells.extend(self.payload.map(shown));
        cells.extend(self.payload_base64.as_ref().map(|base64| format!("base64:{base64}")));
        cells.join("\t")
    }
}

fn shown(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect()
}

/// Lists; fails at the end if something could not be read.
pub(super) fn dump(args: &Dump) -> Result<(), Failure> {
    let source = Source::open(&args.place)?;
    let selection = Selection::new(&args.choice, &source.report(), false)?;
    let mut walk = Walk::new(&source, &selection);
    let mut out = BufWriter::new(io::stdout().lock());
    let mut left = args.limit.unwrap_or(u64::MAX);
    while left > 0
        && let Some((stream, typed)) = walk.next()?
    {
        let row = Row::new(&stream, &typed, args.payload);
        let line = if args.json {
            serde_json::to_string(&row).map_err(|error| Failure::Failed(error.into()))?
        } else {
            row.line()
        };
        match writeln!(out, "{line}") {
            Err(error) if is_closed_pipe(&error) => return Ok(()),
            written => written.map_err(|error| Failure::Failed(error.into()))?,
        }
        left -= 1;
    }
    match out.flush() {
        Err(error) if !is_closed_pipe(&error) => return Err(Failure::Failed(error.into())),
        _ => {}
    }
    report_lost(&walk)
}

/// What could not be read, on standard error: the listing is not everything.
pub(super) fn report_lost(walk: &Walk<'_>) -> Result<(), Failure> {
    for (stream, first, last) in &walk.lost {
        eprintln!("damaged: stream {stream:?}, positions {first} to {last} cannot be read");
    }
    if walk.lost.is_empty() { Ok(()) } else { Err(Failure::Told) }
}
