//! Who gets a message: the subscription index.
//!
//! Filters without wildcards are found by one lookup of the whole topic. The others stand in a trie over interned
//! levels: a node per level, literal children in one shared map of (node, level), `+` and `#` beside them. A topic is
//! walked breadth first, so each of its levels is looked up once, and only while some filter can still match.
//!
//! Sized for a gateway with 10,000 clients and a few filters each: a filter of its own costs about 150 bytes, one more
//! subscriber of a known filter 20.

use super::list::{Arena, Entry, List};
use crate::Text;
use crate::event::Qos;
use crate::ports::hub::SubscribeOptions;
use crate::topic::TopicFilter;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

/// Somebody who gets the message, once, however many of their subscriptions match [MQTT-3.3.4-2], [MQTT-3.3.4-3].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match<S> {
    /// Who.
    pub subscriber: S,
    /// Highest QoS that any of the matching subscriptions grants.
    pub granted: Qos,
    /// True if any of them keeps the RETAIN flag as published.
    pub retain_as_published: bool,
    /// True if only a shared subscription matched.
    pub shared: bool,
    /// Subscription Identifiers of all of them, without zeros.
    pub identifiers: Vec<u32>,
    /// The shared subscriptions among them, as they were subscribed: whoever does not take the message is to have a
    /// successor for them.
    pub shares: Vec<Text>,
}

/// The index, over any small subscriber id.
#[derive(Debug)]
pub struct Subscriptions<S> {
    filters: Arena<Filter<S>>,
    by_text: HashMap<Arc<str>, FilterId>,
    trie: Trie,
    /// The filters of each subscriber, one entry per subscription.
    owned: HashMap<S, Vec<FilterId>>,
    len: usize,
    hits: Vec<FilterId>,
}

type FilterId = u32;
const NONE: u32 = u32::MAX;

#[derive(Clone, Debug)]
struct Filter<S> {
    text: Arc<str>,
    list: List<S>,
    /// Where it hangs in the trie; [`NONE`] if it has no wildcard.
    node: u32,
}

impl<S> Default for Filter<S> {
    fn default() -> Self {
        Filter { text: Arc::default(), list: List::Empty, node: NONE }
    }
}

impl<S: Copy + Ord + Hash> Default for Subscriptions<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: Copy + Ord + Hash> Subscriptions<S> {
    /// An empty index.
    #[must_use]
    pub fn new() -> Self {
        Subscriptions {
            filters: Arena::new(),
            by_text: HashMap::new(),
            trie: Trie::new(),
            owned: HashMap::new(),
            len: 0,
            hits: Vec::new(),
        }
    }

    /// How many subscriptions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a subscription or replaces its options [MQTT-3.8.4-3]; true if it is new.
    pub fn subscribe(&mut self, subscriber: S, filter: &TopicFilter, options: SubscribeOptions) -> bool {
        let id = self.filter_id(filter.filter());
        let share = filter.share().map(|name| (name, filter.as_text()));
        let new = self.filters.get_mut(id).list.set(share, Entry::new(subscriber, options));
        if new {
            self.owned.entry(subscriber).or_default().push(id);
            self.len += 1;
        }
        new
    }

    /// Removes a subscription; false if there was none.
    pub fn unsubscribe(&mut self, subscriber: S, filter: &TopicFilter) -> bool {
        let Some(&id) = self.by_text.get(filter.filter()) else { return false };
        if !self.filters.get_mut(id).list.remove(filter.share(), subscriber) {
            return false;
        }
        if let Some(owned) = self.owned.get_mut(&subscriber) {
            if let Some(at) = owned.iter().position(|o| *o == id) {
                owned.swap_remove(at);
            }
            if owned.is_empty() {
                self.owned.remove(&subscriber);
            }
        }
        self.len -= 1;
        self.drop_if_unused(id);
        true
    }

    /// Removes all subscriptions of a subscriber.
    pub fn remove(&mut self, subscriber: S) {
        for id in self.owned.remove(&subscriber).unwrap_or_default() {
            // Twice in `owned` (plain and shared): the first round has removed both, and perhaps the filter.
            self.len -= self.filters.get_mut(id).list.remove_all(subscriber);
            self.drop_if_unused(id);
        }
    }

    /// Finds everybody who gets a message with this topic, in place of what `out` held.
    ///
    /// - `publisher`: not matched by its own No Local subscriptions [MQTT-3.8.3-3]
    /// - `preferred`: which members of a shared subscription go first (those that are connected); the others get their
    ///   turn only while there is none of these
    ///
    /// A subscriber is in `out` once. Of each shared subscription one member is, in turn.
    pub fn matches(
        &mut self,
        topic: &str,
        publisher: Option<S>,
        preferred: impl Fn(S) -> bool,
        out: &mut Vec<Match<S>>,
    ) {
        out.clear();
        if self.len == 0 {
            return;
        }
        let mut hits = std::mem::take(&mut self.hits);
        hits.extend(self.by_text.get(topic).copied().filter(|id| self.filters.get(*id).node == NONE));
        self.trie.walk(topic, &mut hits);
        let mut sources = 0;
        for id in hits.drain(..) {
            let list = &mut self.filters.get_mut(id).list;
            sources += collect(list, publisher, &preferred, out);
        }
        self.hits = hits;
        if sources > 1 {
            fold(out);
        }
    }

    /// Finds another member of these shared subscriptions, in turn and as [`Subscriptions::matches`] does, in place of
    /// what `out` held: for a message whose member is gone.
    pub fn pick<'f>(
        &mut self,
        shared: impl IntoIterator<Item = &'f TopicFilter>,
        preferred: impl Fn(S) -> bool,
        out: &mut Vec<Match<S>>,
    ) {
        out.clear();
        for filter in shared {
            let Some((share, id)) = filter.share().zip(self.by_text.get(filter.filter())) else { continue };
            let group = self.filters.get_mut(*id).list.group(share);
            out.extend(group.and_then(|group| {
                let entry = group.pick(&preferred)?;
                Some(Match::new(&entry, Some(group.text())))
            }));
        }
        fold(out);
    }

    fn filter_id(&mut self, text: &str) -> FilterId {
        if let Some(id) = self.by_text.get(text) {
            return *id;
        }
        let text: Arc<str> = text.into();
        let id = self.filters.insert(Filter { text: text.clone(), list: List::Empty, node: NONE });
        if text.contains(['+', '#']) {
            self.filters.get_mut(id).node = self.trie.insert(&text, id);
        }
        self.by_text.insert(text, id);
        id
    }

    fn drop_if_unused(&mut self, id: FilterId) {
        let filter = self.filters.get(id);
        if !filter.list.is_empty() || self.by_text.get(&filter.text) != Some(&id) {
            return;
        }
        let filter = self.filters.remove(id);
        self.by_text.remove(&filter.text);
        if filter.node != NONE {
            self.trie.remove(filter.node, id);
        }
    }

    /// What the index holds inside, for tests that look for leaks: filters, nodes, levels.
    #[cfg(test)]
    pub(super) fn parts(&self) -> (usize, usize, usize) {
        (self.filters.len(), self.trie.nodes.len(), self.trie.levels.len())
    }
}

/// Appends the matches of one filter; how many sorted runs that made.
fn collect<S: Copy + Ord>(
    list: &mut List<S>,
    publisher: Option<S>,
    preferred: impl Fn(S) -> bool,
    out: &mut Vec<Match<S>>,
) -> usize {
    let mut sources = usize::from(!list.plain().is_empty());
    for entry in list.plain() {
        if !(entry.no_local && publisher == Some(entry.subscriber)) {
            out.push(Match::new(entry, None));
        }
    }
    for group in list.groups() {
        let picked = group.pick(&preferred);
        out.extend(picked.map(|entry| Match::new(&entry, Some(group.text()))));
        sources += 1;
    }
    sources
}

/// One match per subscriber: highest QoS, all identifiers.
fn fold<S: Copy + Ord>(out: &mut Vec<Match<S>>) {
    out.sort_by_key(|m| m.subscriber);
    out.dedup_by(|later, first| {
        let same = later.subscriber == first.subscriber;
        if same {
            first.granted = first.granted.max(later.granted);
            first.retain_as_published |= later.retain_as_published;
            first.shared &= later.shared;
            first.identifiers.append(&mut later.identifiers);
            first.shares.append(&mut later.shares);
        }
        same
    });
}

impl<S: Copy> Match<S> {
    fn new(entry: &Entry<S>, share: Option<&Text>) -> Match<S> {
        Match {
            subscriber: entry.subscriber,
            granted: entry.qos,
            retain_as_published: entry.retain_as_published,
            shared: share.is_some(),
            identifiers: if entry.identifier == 0 { Vec::new() } else { vec![entry.identifier] },
            shares: share.cloned().into_iter().collect(),
        }
    }
}

/// Filters with wildcards, by levels.
#[derive(Debug)]
struct Trie {
    nodes: Arena<Node>,
    /// Literal children: (node, level) -> node.
    edges: HashMap<(u32, u32), u32>,
    levels: Levels,
    active: Vec<u32>,
    next: Vec<u32>,
}

const ROOT: u32 = 0;
/// The level of a `+` node.
const PLUS: u32 = u32::MAX;

#[derive(Clone, Debug)]
struct Node {
    parent: u32,
    level: u32,
    /// Literal children.
    children: u32,
    /// Child `+`.
    plus: u32,
    /// The filter that ends here.
    here: FilterId,
    /// The filter that ends here with `/#`.
    below: FilterId,
}

impl Default for Node {
    fn default() -> Self {
        Node { parent: NONE, level: NONE, children: 0, plus: NONE, here: NONE, below: NONE }
    }
}

impl Trie {
    fn new() -> Trie {
        let mut nodes = Arena::new();
        nodes.insert(Node::default());
        Trie { nodes, edges: HashMap::new(), levels: Levels::new(), active: Vec::new(), next: Vec::new() }
    }

    /// Hangs a filter in; returns its node.
    fn insert(&mut self, text: &str, id: FilterId) -> u32 {
        let below = text.ends_with('#');
        // `#` has no level before it, `/#` an empty one.
        let path = if below { text.strip_suffix("/#") } else { Some(text) };
        let mut at = ROOT;
        for level in path.into_iter().flat_map(|path| path.split('/')) {
            at = if level == "+" { self.plus_child(at) } else { self.literal_child(at, level) };
        }
        let node = self.nodes.get_mut(at);
        *(if below { &mut node.below } else { &mut node.here }) = id;
        at
    }

    fn plus_child(&mut self, parent: u32) -> u32 {
        let known = self.nodes.get(parent).plus;
        if known != NONE {
            return known;
        }
        let child = self.nodes.insert(Node { parent, level: PLUS, ..Node::default() });
        self.nodes.get_mut(parent).plus = child;
        child
    }

    fn literal_child(&mut self, parent: u32, name: &str) -> u32 {
        if let Some(level) = self.levels.find(name)
            && let Some(child) = self.edges.get(&(parent, level))
        {
            return *child;
        }
        let level = self.levels.add(name);
        let child = self.nodes.insert(Node { parent, level, ..Node::default() });
        self.edges.insert((parent, level), child);
        self.nodes.get_mut(parent).children += 1;
        child
    }

    /// Takes a filter out, and every node that only it needed.
    fn remove(&mut self, node: u32, id: FilterId) {
        let mut at = node;
        let last = self.nodes.get_mut(at);
        if last.here == id {
            last.here = NONE;
        } else {
            last.below = NONE;
        }
        while at != ROOT && self.nodes.get(at).is_bare() {
            let Node { parent, level, .. } = self.nodes.remove(at);
            if level == PLUS {
                self.nodes.get_mut(parent).plus = NONE;
            } else {
                self.edges.remove(&(parent, level));
                self.levels.release(level);
                self.nodes.get_mut(parent).children -= 1;
            }
            at = parent;
        }
    }

    /// Appends the filters that match.
    fn walk(&mut self, topic: &str, hits: &mut Vec<FilterId>) {
        self.active.clear();
        self.active.push(ROOT);
        for (depth, name) in topic.split('/').enumerate() {
            // No wildcard at the start matches a topic that starts with `$` [MQTT-4.7.2-1].
            let wildcards = depth > 0 || !name.starts_with('$');
            self.step(name, wildcards, hits);
            if self.active.is_empty() {
                return;
            }
        }
        for at in &self.active {
            // `sport/#` matches `sport` too (MQTT 5.0 section 4.7.1.2).
            let Node { here, below, .. } = self.nodes.get(*at);
            hits.extend([*here, *below].into_iter().filter(|id| *id != NONE));
        }
    }

    fn step(&mut self, name: &str, wildcards: bool, hits: &mut Vec<FilterId>) {
        let mut level = None;
        for at in &self.active {
            let node = self.nodes.get(*at);
            if wildcards && node.below != NONE {
                hits.push(node.below);
            }
            if wildcards && node.plus != NONE {
                self.next.push(node.plus);
            }
            if node.children > 0
                && let Some(level) = *level.get_or_insert_with(|| self.levels.find(name))
            {
                self.next.extend(self.edges.get(&(*at, level)));
            }
        }
        self.active.clear();
        std::mem::swap(&mut self.active, &mut self.next);
    }
}

impl Node {
    fn is_bare(&self) -> bool {
        self.children == 0 && self.plus == NONE && self.here == NONE && self.below == NONE
    }
}

/// Level names as numbers; each is kept once, while a node uses it.
#[derive(Debug)]
struct Levels {
    names: Arena<(Arc<str>, u32)>,
    ids: HashMap<Arc<str>, u32>,
}

impl Levels {
    fn new() -> Levels {
        Levels { names: Arena::new(), ids: HashMap::new() }
    }

    fn find(&self, name: &str) -> Option<u32> {
        self.ids.get(name).copied()
    }

    fn add(&mut self, name: &str) -> u32 {
        if let Some(id) = self.find(name) {
            self.names.get_mut(id).1 += 1;
            return id;
        }
        let name: Arc<str> = name.into();
        let id = self.names.insert((name.clone(), 1));
        self.ids.insert(name, id);
        id
    }

    fn release(&mut self, id: u32) {
        let (_, users) = self.names.get_mut(id);
        *users -= 1;
        if *users == 0 {
            let (name, _) = self.names.remove(id);
            self.ids.remove(&name);
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.names.len()
    }
}
