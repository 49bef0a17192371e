//! Which numbers streams and uplinks have at the ports, for the life of a process.
//!
//! The store and the forwarders know streams and uplinks by number. While the node runs its configuration may change, and
//! then an index into it would suddenly mean somebody else. So each name gets a number when it is first seen, and no number
//! is ever given to another name: what is still under way for an uplink that is gone cannot reach its successor.

use crate::convert::stream_spec;
use crate::model::{Config, Stream, Unrouted};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::ports::store::{StoreSpec, StreamId, StreamSpec, UplinkId};
use eventmesh_edge_core::route::{Route, RouteError, Router};

/// Names by number. That of a fresh start are the indices of its configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    streams: Vec<String>,
    uplinks: Vec<String>,
}

impl Slots {
    /// Those of a node that starts with this configuration.
    #[must_use]
    pub fn of(config: &Config) -> Slots {
        let mut slots = Slots::default();
        slots.extend(config);
        slots
    }

    /// Gives a number to each name that has none.
    pub fn extend(&mut self, config: &Config) {
        for stream in &config.streams {
            add(&mut self.streams, stream.name.as_str());
        }
        for uplink in &config.uplinks {
            add(&mut self.uplinks, uplink.name.as_str());
        }
    }

    /// The number of a stream.
    #[must_use]
    pub fn stream(&self, name: &str) -> Option<StreamId> {
        Some(StreamId(find(&self.streams, name)?))
    }

    /// The number of an uplink.
    #[must_use]
    pub fn uplink(&self, name: &str) -> Option<UplinkId> {
        Some(UplinkId(find(&self.uplinks, name)?))
    }

    /// The name of a stream, whether the configuration still has it or not.
    #[must_use]
    pub fn stream_name(&self, id: StreamId) -> Option<&str> {
        self.streams.get(usize::from(id.0)).map(String::as_str)
    }

    /// The name of an uplink, whether the configuration still has it or not.
    #[must_use]
    pub fn uplink_name(&self, id: UplinkId) -> Option<&str> {
        self.uplinks.get(usize::from(id.0)).map(String::as_str)
    }
}

fn add(names: &mut Vec<String>, name: &str) {
    if !names.iter().any(|known| known == name) {
        names.push(name.to_owned());
    }
}

/// `u16` holds it: a process does not see 65,535 names.
fn find(names: &[String], name: &str) -> Option<u16> {
    u16::try_from(names.iter().position(|known| known == name)?).ok()
}

impl Config {
    /// What the store has to be with this configuration, when it was `running` so far: a stream that the configuration does
    /// not have any more keeps its place and its bounds, without readers.
    #[must_use]
    pub fn store_spec_in(&self, slots: &Slots, running: &StoreSpec) -> StoreSpec {
        let named = |name: &String| self.streams.iter().find(|stream| stream.name.as_str() == name);
        let spec = |(index, name): (usize, &String)| match (named(name), running.streams.get(index)) {
            (Some(stream), _) => {
                Some(StreamSpec { uplinks: self.readers(stream, slots), ..stream_spec(stream) })
            }
            (None, Some(gone)) => Some(StreamSpec { uplinks: Vec::new(), ..gone.clone() }),
            (None, None) => None,
        };
        StoreSpec {
            streams: slots.streams.iter().enumerate().filter_map(spec).collect(),
            uplinks: slots.uplinks.iter().cloned().map(Text::from).collect(),
            ..self.store_spec()
        }
    }

    /// The uplinks that read a stream, by number.
    #[must_use]
    pub fn readers(&self, stream: &Stream, slots: &Slots) -> Vec<UplinkId> {
        let uplinks = stream.uplinks.iter().filter_map(|uplink| self.uplinks.get(*uplink));
        uplinks.filter_map(|uplink| slots.uplink(uplink.name.as_str())).collect()
    }

    /// What decides which stream takes a message, by the numbers of `slots`.
    ///
    /// # Errors
    /// None that a checked configuration could cause: [`RouteError`] is what the router itself insists on.
    pub fn router_in(&self, slots: &Slots) -> Result<Router, RouteError> {
        let stream = |index: usize| slots.stream(self.streams.get(index)?.name.as_str());
        let route = |route: &crate::model::Route| {
            let kind = route.kind.clone().map(Text::from);
            Some(Route { topics: route.topics.clone(), stream: stream(route.stream)?, kind })
        };
        let default_stream = stream(0).filter(|_| self.node.unrouted == Unrouted::Default);
        Router::new(self.routes.iter().filter_map(route).collect(), default_stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Overrides;
    use std::collections::BTreeMap;

    fn config(text: &str) -> Config {
        Config::parse(text, "f", &BTreeMap::new(), &Overrides::default()).unwrap()
    }

    fn uplink(name: &str) -> String {
        format!("[[uplink]]\nname = \"{name}\"\nkind = \"mqtt\"\naddresses = [\"h\"]\n")
    }

    #[test]
    fn a_fresh_start_numbers_as_the_configuration_does() {
        let text = format!(
            "{}{}[[stream]]\nname = \"s\"\n[[route]]\ntopics = [\"a\"]\nstream = \"s\"\nuplinks = [\"b\"]\n",
            uplink("a"),
            uplink("b")
        );
        let config = config(&text);
        let slots = Slots::of(&config);
        assert_eq!(config.store_spec_in(&slots, &config.store_spec()), config.store_spec());
        assert_eq!(config.router_in(&slots).unwrap().routes(), config.router().unwrap().routes());
    }

    #[test]
    fn a_number_is_never_given_to_another_name() {
        let first = config(&format!("{}{}", uplink("a"), uplink("b")));
        let mut slots = Slots::of(&first);
        let second = config(&format!("{}{}", uplink("c"), uplink("b")));
        slots.extend(&second);
        assert_eq!(["a", "b", "c"].map(|name| slots.uplink(name)), [0, 1, 2].map(|n| Some(UplinkId(n))));
        let spec = second.store_spec_in(&slots, &first.store_spec());
        assert_eq!(spec.streams[0].uplinks, [UplinkId(2), UplinkId(1)]);
        assert_eq!((spec.uplinks.len(), slots.uplink_name(UplinkId(0))), (3, Some("a")));
    }

    #[test]
    fn a_stream_that_is_gone_keeps_its_place() {
        let first = config(&uplink("a"));
        let mut slots = Slots::of(&first);
        let second = config("[[stream]]\nname = \"s\"\n");
        slots.extend(&second);
        let spec = second.store_spec_in(&slots, &first.store_spec());
        let names: Vec<&str> = spec.streams.iter().map(|s| &*s.name).collect();
        assert_eq!(names, ["default", crate::NODE_STREAM, "s"]);
        assert!(spec.streams.iter().all(|s| s.uplinks.is_empty()));
        let router = second.router_in(&slots).unwrap();
        assert_eq!(router.route("x").map(|r| r.stream), Some(StreamId(0)));
    }
}
