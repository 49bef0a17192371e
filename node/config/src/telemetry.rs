//! The stream of the node's own events: there is one as soon as there are events and somebody to read them.

use crate::model::{Class, NODE_STREAM, StreamWhenFull};
use crate::problem::Problem;
use crate::resolve::missing;
use crate::sections::{RawStream, RawUplink};
use crate::setting::Name;
use crate::units::ByteSize;

/// Small and bounded by itself: what is given up here is told again by the next heartbeat (docs/node-events.md).
const NODE_STREAM_BYTES: ByteSize = ByteSize::from_mib(1);

/// The stream and the uplinks that read it; `None` if nobody would.
pub(crate) fn stream(
    enabled: bool,
    chosen: Option<&[Name]>,
    uplinks: &[RawUplink],
    problems: &mut Vec<Problem>,
) -> Option<(RawStream, Vec<usize>)> {
    let readers = match chosen {
        None => (0..uplinks.len()).collect(),
        Some(names) => names.iter().filter_map(|name| reader(name, uplinks, problems)).collect::<Vec<_>>(),
    };
    if !enabled || readers.is_empty() {
        return None;
    }
    let stream = RawStream {
        name: Name::parse(NODE_STREAM).ok(),
        class: Class::Durable,
        max_bytes: Some(NODE_STREAM_BYTES),
        max_age: None,
        when_full: StreamWhenFull::DropOldest,
    };
    Some((stream, readers))
}

fn reader(name: &Name, uplinks: &[RawUplink], problems: &mut Vec<Problem>) -> Option<usize> {
    let found = uplinks.iter().position(|uplink| uplink.name.as_ref() == Some(name));
    if found.is_none() && uplinks.iter().all(|uplink| uplink.name.is_some()) {
        let known = uplinks.iter().filter_map(|uplink| uplink.name.as_ref()).map(Name::as_str);
        problems.push(missing("telemetry.uplinks".to_owned(), "uplink", name, known));
    }
    found
}

/// The name is taken, whether or not the stream is there: switching telemetry on must not mix two streams.
pub(crate) fn check_name(streams: &[(String, RawStream)], problems: &mut Vec<Problem>) {
    for (path, stream) in streams {
        if stream.name.as_ref().is_some_and(|name| name.as_str() == NODE_STREAM) {
            let what = "is the name of the stream of the node's own events, choose another";
            problems.push(Problem::of(format!("{path}.name = \"{NODE_STREAM}\""), what));
        }
    }
}
