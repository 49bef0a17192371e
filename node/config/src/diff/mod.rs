//! What a changed configuration means for the node that runs with another one (docs/adr/0009): a pure function of both.
//!
//! Everything is compared by name: an uplink that is renamed is one that is gone and a new one. What cannot be changed while
//! the node runs is listed as a whole ([`Plan::restart`]), and then nothing is changed.

mod keys;
mod words;

use crate::model::{Config, NODE_STREAM, Stream, Uplink};
use crate::units::ByteSize;
use eventmesh_edge_core::ports::store::UplinkId;
pub use keys::KeyChange;

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What needs a restart, one line each, by key: if there is any, nothing of the plan may be done.
    pub restart: Vec<String>,
    /// By name, in the order of the new configuration; those that are gone last.
    pub uplinks: Vec<UplinkChange>,
    /// New streams, and budgets that change.
    pub streams: Vec<StreamChange>,
    /// Who begins to read what, and who stops.
    pub readers: Vec<ReaderChange>,
    /// How the routes change, one line each; empty if topics, `type`s and their order are the same.
    pub routes: Vec<String>,
}

/// One uplink that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkChange {
    /// Which.
    pub name: String,
    /// In what way.
    pub what: UplinkDiff,
}

/// How an uplink differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UplinkDiff {
    /// There was none of this name.
    New,
    /// There is none of this name any more.
    Gone,
    /// Where and how it connects: its adapter is replaced, its forwarder stays.
    Way(Vec<KeyChange>),
    /// Order, window or patience too: its forwarder is replaced.
    Rules(Vec<KeyChange>),
}

/// One stream that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamChange {
    /// Which.
    pub name: String,
    /// Its budget so far; `None` if it is new.
    pub from: Option<ByteSize>,
    /// Its budget from now on.
    pub to: ByteSize,
}

/// An uplink that reads a stream and did not, or does not any more and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReaderChange {
    /// Which stream.
    pub stream: String,
    /// Which uplink.
    pub uplink: String,
    /// It begins; else it stops.
    pub begins: bool,
}

impl Plan {
    /// What changes if `new` takes the place of `running`.
    #[must_use]
    pub fn between(running: &Config, new: &Config) -> Plan {
        let mut plan = Plan { restart: keys::fixed(running, new), ..Plan::default() };
        plan.compare_streams(running, new);
        plan.compare_uplinks(running, new);
        plan.compare_readers(running, new);
        plan.routes = words::routes(running, new);
        plan
    }

    /// True if there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Plan::default()
    }

    /// The consumers that are to stop reading: whoever carries the plan out needs to know what becomes of what waits for
    /// them.
    pub fn leaving(&self) -> impl Iterator<Item = &ReaderChange> {
        self.readers.iter().filter(|reader| !reader.begins)
    }

    /// True if this uplink is not in the new configuration.
    #[must_use]
    pub fn is_gone(&self, uplink: &str) -> bool {
        self.uplinks.iter().any(|change| change.name == uplink && change.what == UplinkDiff::Gone)
    }

    fn compare_streams(&mut self, running: &Config, new: &Config) {
        for stream in &new.streams {
            match find_stream(running, stream.name.as_str()) {
                None => self.stream(stream, None),
                Some(before) => {
                    self.restart.extend(keys::fixed_of_stream(before, stream));
                    if before.max_bytes != stream.max_bytes {
                        self.stream(stream, Some(before.max_bytes));
                    }
                }
            }
        }
        for stream in &running.streams {
            // The node's own events end with their last reader.
            let name = stream.name.as_str();
            if name != NODE_STREAM && find_stream(new, name).is_none() {
                self.restart.push(format!(
                    "stream \"{name}\": is not in the file, and a stream is removed by a restart only: what waits in it is then \
                     counted as lost (stream_removed)"
                ));
            }
        }
    }

    fn stream(&mut self, stream: &Stream, from: Option<ByteSize>) {
        self.streams.push(StreamChange { name: stream.name.to_string(), from, to: stream.max_bytes });
    }

    fn compare_uplinks(&mut self, running: &Config, new: &Config) {
        for uplink in &new.uplinks {
            let what = match find_uplink(running, uplink.name.as_str()) {
                None => UplinkDiff::New,
                Some(before) if before == uplink => continue,
                Some(before) => uplink_diff(before, uplink),
            };
            self.uplinks.push(UplinkChange { name: uplink.name.to_string(), what });
        }
        let gone = running.uplinks.iter().filter(|u| find_uplink(new, u.name.as_str()).is_none());
        self.uplinks.extend(gone.map(|u| UplinkChange { name: u.name.to_string(), what: UplinkDiff::Gone }));
    }

    fn compare_readers(&mut self, running: &Config, new: &Config) {
        for (config, other, begins) in [(new, running, true), (running, new, false)] {
            for stream in &config.streams {
                let there = readers(other, find_stream(other, stream.name.as_str()));
                for uplink in readers(config, Some(stream)).into_iter().filter(|u| !there.contains(u)) {
                    let (stream, uplink) = (stream.name.to_string(), uplink.to_owned());
                    self.readers.push(ReaderChange { stream, uplink, begins });
                }
            }
        }
    }
}

/// Whether the forwarder has to be another one is what its own options say: no second list of keys that could be wrong.
fn uplink_diff(before: &Uplink, after: &Uplink) -> UplinkDiff {
    let rules = |uplink: &Uplink| {
        let mut rules = uplink.forward_options(UplinkId(0), 0);
        // A replaced adapter brings its own number of addresses.
        rules.addresses = 1;
        rules
    };
    let changes = keys::of_uplink(before, after);
    if before.kind == after.kind && rules(before) == rules(after) {
        UplinkDiff::Way(changes)
    } else {
        UplinkDiff::Rules(changes)
    }
}

fn find_stream<'c>(config: &'c Config, name: &str) -> Option<&'c Stream> {
    config.streams.iter().find(|stream| stream.name.as_str() == name)
}

fn find_uplink<'c>(config: &'c Config, name: &str) -> Option<&'c Uplink> {
    config.uplinks.iter().find(|uplink| uplink.name.as_str() == name)
}

fn readers<'c>(config: &'c Config, stream: Option<&Stream>) -> Vec<&'c str> {
    let indices = stream.into_iter().flat_map(|stream| &stream.uplinks);
    indices.filter_map(|index| config.uplinks.get(*index)).map(|uplink| uplink.name.as_str()).collect()
}

#[cfg(test)]
mod tests;
