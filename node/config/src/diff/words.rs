//! A plan in the words of the file.

use super::{Plan, StreamChange, UplinkChange, UplinkDiff};
use crate::model::{Config, Route, Unrouted};
use crate::setting::{Setting, quote};

impl Plan {
    /// What would be changed, one line each; what needs a restart is not among it. No secrets (P7).
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let streams = self.streams.iter().map(stream);
        let uplinks = self.uplinks.iter().map(|change| self.uplink(change));
        let readers = self.readers.iter().filter(|reader| !self.is_told(&reader.uplink)).map(|reader| {
            let verb = if reader.begins { "now reads" } else { "no longer reads" };
            format!("uplink \"{}\" {verb} stream \"{}\"", reader.uplink, reader.stream)
        });
        streams.chain(uplinks).chain(readers).chain(self.routes.iter().cloned()).collect()
    }

    /// A new uplink's line names its streams, and one that is gone reads none.
    fn is_told(&self, uplink: &str) -> bool {
        let told = |change: &&UplinkChange| matches!(change.what, UplinkDiff::New | UplinkDiff::Gone);
        self.uplinks.iter().filter(told).any(|change| change.name == uplink)
    }

    fn uplink(&self, change: &UplinkChange) -> String {
        let UplinkChange { name, what } = change;
        match what {
            UplinkDiff::New => {
                let reads = self.readers.iter().filter(|r| r.begins && r.uplink == *name);
                let reads: Vec<String> = reads.map(|r| quote(&r.stream)).collect();
                format!("uplink \"{name}\" is new and reads {}", list(&reads))
            }
            UplinkDiff::Gone => format!("uplink \"{name}\" is gone"),
            UplinkDiff::Way(keys) | UplinkDiff::Rules(keys) => {
                let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
                format!("uplink \"{name}\" connects anew: {}", keys.join(", "))
            }
        }
    }
}

fn list(items: &[String]) -> String {
    if items.is_empty() { "nothing".to_owned() } else { items.join(", ") }
}

fn stream(change: &StreamChange) -> String {
    let StreamChange { name, from, to } = change;
    match from {
        None => format!("stream \"{name}\" is new: at most {to} for each uplink"),
        Some(from) => format!("stream \"{name}\": max_bytes \"{from}\" -> \"{to}\""),
    }
}

/// How routes differ: what is new, what is gone, and whether those that stay changed places.
pub(super) fn routes(running: &Config, new: &Config) -> Vec<String> {
    let (before, after) = (shown(running), shown(new));
    let mut lines: Vec<String> = Vec::new();
    lines.extend(after.iter().filter(|route| !before.contains(route)).map(|route| format!("new {route}")));
    lines.extend(before.iter().filter(|route| !after.contains(route)).map(|route| format!("gone: {route}")));
    if lines.is_empty() && before != after {
        lines.push("routes are in another order".to_owned());
    }
    if running.node.unrouted != new.node.unrouted {
        let to = match new.node.unrouted {
            Unrouted::Default => "the default stream",
            Unrouted::Local => "local subscribers only",
        };
        lines.push(format!("what no route takes goes to {to}"));
    }
    lines
}

fn shown(config: &Config) -> Vec<String> {
    config.routes.iter().map(|route| show(config, route)).collect()
}

fn show(config: &Config, route: &Route) -> String {
    let stream = config.streams.get(route.stream).map_or("?", |stream| stream.name.as_str());
    let kind = route.kind.as_ref().map(|kind| format!(" with type {}", quote(kind))).unwrap_or_default();
    format!("route {} -> \"{stream}\"{kind}", route.topics.show())
}
