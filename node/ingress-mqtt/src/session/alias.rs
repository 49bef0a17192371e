//! Topic aliases of what is sent (MQTT 5.0 section 3.3.2.3.4): a topic that comes again is sent as two bytes.
//!
//! The first topics of a connection get the aliases that the client allows, and keep them: where there are more topics
//! than aliases, changing them round would cost three bytes with nearly every message and save nothing. Nothing is
//! allocated for a client that allows none, or before its first message.

use crate::codec::encode::Alias;
use eventmesh_edge_core::Text;

/// Aliases kept for one connection, whatever it allows (P5).
const MAX: u16 = 16;
/// An alias takes three bytes; a topic that is no longer than this is better sent as it is.
const WORTH_IT_BYTES: usize = 4;

/// The aliases of one connection; they end with it [MQTT-3.3.2-7].
#[derive(Debug, Default)]
pub(super) struct SentAliases {
    /// Topic Alias Maximum of the client, or what of it is used [MQTT-3.3.2-11].
    max: u16,
    /// Topics by alias, from 1. So few are found faster than a hash is made.
    known: Vec<Text>,
}

impl SentAliases {
    /// For a client with this Topic Alias Maximum; with 0 there are none [MQTT-3.1.2-27].
    pub(super) fn new(client_max: u16) -> SentAliases {
        SentAliases { max: client_max.min(MAX), known: Vec::new() }
    }

    /// How to send this topic now.
    pub(super) fn find(&self, topic: &str) -> Alias {
        if self.max == 0 || topic.len() < WORTH_IT_BYTES {
            return Alias::None;
        }
        let found = (1..=self.max).zip(&self.known).find(|(_, known)| *known == topic);
        if let Some((alias, _)) = found {
            return Alias::Known(alias);
        }
        let used = u16::try_from(self.known.len()).unwrap_or(u16::MAX);
        if used < self.max { Alias::New(used + 1) } else { Alias::None }
    }

    /// The topic was sent with this alias.
    pub(super) fn sent(&mut self, topic: &str, alias: Alias) {
        if matches!(alias, Alias::New(_)) {
            // A copy: the topic may be a slice of the packet that it came in.
            self.known.push(Text::from(topic));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_topics_keep_the_aliases() {
        let mut aliases = SentAliases::new(2);
        for (topic, expected) in [
            ("topic/1", Alias::New(1)),
            ("topic/1", Alias::Known(1)),
            ("t/1", Alias::None),
            ("topic/2", Alias::New(2)),
            ("topic/3", Alias::None),
            ("topic/2", Alias::Known(2)),
        ] {
            let found = aliases.find(topic);
            assert_eq!(found, expected, "{topic}");
            aliases.sent(topic, found);
        }
        assert_eq!(SentAliases::new(0).find("topic/1"), Alias::None);
    }

    #[test]
    fn an_alias_that_was_not_sent_is_not_known() {
        let aliases = SentAliases::new(1);
        assert_eq!(aliases.find("topic/1"), Alias::New(1));
        assert_eq!(aliases.find("topic/2"), Alias::New(1));
    }

    #[test]
    fn a_client_that_allows_many_costs_a_bounded_memory() {
        let mut aliases = SentAliases::new(u16::MAX);
        for n in 0..1000 {
            let topic = format!("topic/{n}");
            let found = aliases.find(&topic);
            aliases.sent(&topic, found);
        }
        assert_eq!(aliases.known.len(), usize::from(MAX));
    }
}
