//! What stands against a plan: everything at once, before anything is done.

use crate::run::observe::Current;
use eventmesh_edge_admin::ReloadAsk;
use eventmesh_edge_config::{Config, Plan, ReaderChange, Stream, StreamWhenFull};
use eventmesh_edge_core::ports::store::{Consumer, Store};
use std::collections::{BTreeMap, BTreeSet};

/// What happens to the consumers that lose their place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Farewells {
    pub(super) drain: Vec<Consumer>,
    pub(super) drop: Vec<Consumer>,
    /// For the operator.
    pub(super) words: Vec<String>,
}

/// Takes the operator at their word, or says what is missing.
pub(super) fn farewells(
    plan: &Plan,
    new: &Config,
    current: &Current,
    ask: &ReloadAsk,
    store: &dyn Store,
) -> Result<Farewells, Vec<String>> {
    let mut refused = plan.restart.clone();
    let mut farewells = Farewells::default();
    let mut waiting: BTreeMap<&str, u64> = BTreeMap::new();
    let leaving = leaving(plan, new, current);
    for (name, consumer) in &leaving {
        let events = store.backlog(*consumer).events;
        // Who was named is taken at the word: an event may come between this look and the change.
        if events == 0 && !ask.drain.contains(name) && !ask.drop.contains(name) {
            continue;
        }
        let is_draining = current.draining.contains(consumer);
        if ask.drop.contains(name) {
            farewells.drop.push(*consumer);
            farewells.words.push(format!(
                "uplink \"{name}\": {events} events are given up and counted (stream_removed)"
            ));
        } else if ask.drain.contains(name) || is_draining {
            farewells.drain.push(*consumer);
            farewells.words.push(format!("uplink \"{name}\": {events} events are still handed on"));
        } else {
            *waiting.entry(name.as_str()).or_default() += events;
        }
    }
    refused.extend(waiting.iter().map(|(name, events)| unanswered(name, *events, plan.is_gone(name))));
    refused.extend(misnamed(ask, &leaving.iter().map(|(name, _)| name.as_str()).collect()));
    refused.extend(new.streams.iter().filter_map(|stream| too_small(stream, current, store)));
    if refused.is_empty() { Ok(farewells) } else { Err(refused) }
}

/// The consumers that lose their place, and those that are being drained and do not come back.
fn leaving(plan: &Plan, new: &Config, current: &Current) -> Vec<(String, Consumer)> {
    let consumer = |reader: &ReaderChange| {
        let stream = current.slots.stream(&reader.stream)?;
        let uplink = current.slots.uplink(&reader.uplink)?;
        Some((reader.uplink.clone(), Consumer { stream, uplink }))
    };
    let reads_again = |consumer: &Consumer| {
        let name = current.slots.stream_name(consumer.stream);
        let stream = new.streams.iter().find(|stream| Some(stream.name.as_str()) == name);
        stream.is_some_and(|stream| new.readers(stream, &current.slots).contains(&consumer.uplink))
    };
    let draining = current.draining.iter().filter(|consumer| !reads_again(consumer));
    let draining = draining
        .filter_map(|consumer| Some((current.slots.uplink_name(consumer.uplink)?.to_owned(), *consumer)));
    plan.leaving().filter_map(consumer).chain(draining).collect()
}

fn unanswered(name: &str, events: u64, is_gone: bool) -> String {
    let what = if is_gone { "is not in the file" } else { "reads a stream less" };
    let events = if events == 1 { "1 event waits".to_owned() } else { format!("{events} events wait") };
    format!(
        "uplink \"{name}\" {what} and {events} for it: say --drain {name} to hand them on, or --drop {name} to give them up"
    )
}

/// A word about somebody who stays is a mistake somewhere.
fn misnamed(ask: &ReloadAsk, leaving: &BTreeSet<&str>) -> Vec<String> {
    let both = ask.drain.iter().filter(|name| ask.drop.contains(name));
    let both = both.map(|name| format!("--drain {name} and --drop {name}: say one of them"));
    let stays = [("--drain", &ask.drain), ("--drop", &ask.drop)];
    let stays = stays.into_iter().flat_map(|(word, names)| names.iter().map(move |name| (word, name)));
    let stays = stays
        .filter(|(_, name)| !leaving.contains(name.as_str()))
        .map(|(word, name)| format!("{word} {name}: no uplink of this name leaves a stream"));
    both.chain(stays).collect()
}

/// A budget below what waits would give events up that nobody has spoken of.
fn too_small(stream: &Stream, current: &Current, store: &dyn Store) -> Option<String> {
    let id = current.slots.stream(stream.name.as_str())?;
    let before = current.config.streams.iter().find(|before| before.name == stream.name)?;
    if stream.when_full != StreamWhenFull::DropOldest || stream.max_bytes >= before.max_bytes {
        return None;
    }
    let readers = current.config.readers(before, &current.slots).into_iter();
    let most = readers.map(|uplink| store.backlog(Consumer { stream: id, uplink }).bytes).max()?;
    (most > stream.max_bytes.bytes()).then(|| {
        let (name, max) = (&stream.name, stream.max_bytes);
        format!("stream \"{name}\".max_bytes = \"{max}\": {most} bytes wait, the oldest would be given up")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_how_many_wait_and_what_to_say() {
        let line = unanswered("cloud", 4711, true);
        assert!(
            line.starts_with("uplink \"cloud\" is not in the file and 4711 events wait for it"),
            "{line}"
        );
        assert!(line.contains("--drain cloud") && line.contains("--drop cloud"), "{line}");
        assert!(unanswered("cloud", 1, false).contains("reads a stream less and 1 event waits"));
    }

    #[test]
    fn a_word_about_somebody_who_stays_is_a_mistake() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let ask = ReloadAsk { drain: names(&["a", "b"]), drop: names(&["b", "c"]), dry_run: false };
        let lines = misnamed(&ask, &["a", "b"].into());
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("say one of them") && lines[1].starts_with("--drop c"), "{lines:?}");
    }
}
