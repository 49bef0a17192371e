//! The subscriptions of one filter, and the arena that all parts of the index live in.

use crate::Text;
use crate::event::Qos;
use crate::ports::hub::SubscribeOptions;

/// One subscription, 16 bytes with a 64-bit subscriber.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<S> {
    pub(super) subscriber: S,
    /// Subscription Identifier, 0 for none.
    pub(super) identifier: u32,
    pub(super) qos: Qos,
    pub(super) no_local: bool,
    pub(super) retain_as_published: bool,
}

impl<S> Entry<S> {
    pub(super) fn new(subscriber: S, options: SubscribeOptions) -> Entry<S> {
        Entry {
            subscriber,
            identifier: options.identifier,
            qos: options.qos,
            no_local: options.no_local,
            retain_as_published: options.retain_as_published,
        }
    }
}

/// All subscriptions of one filter. Nearly every filter has exactly one, which needs no allocation.
#[derive(Clone, Debug, Default)]
pub(super) enum List<S> {
    #[default]
    Empty,
    One(Entry<S>),
    Many(Box<Many<S>>),
}

/// Both vectors are ordered by subscriber: ten thousand subscribers of one filter are found by bisection.
#[derive(Clone, Debug)]
pub(super) struct Many<S> {
    plain: Vec<Entry<S>>,
    groups: Vec<Group<S>>,
}

/// The members of `$share/NAME/filter`.
#[derive(Clone, Debug)]
pub(super) struct Group<S> {
    name: Box<str>,
    /// The whole of it.
    text: Text,
    members: Vec<Entry<S>>,
    /// Whose turn it is, as an index into `members`, possibly one past the end.
    next: usize,
}

impl<S: Copy + Ord> List<S> {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            List::Empty => true,
            List::One(_) => false,
            List::Many(many) => many.plain.is_empty() && many.groups.is_empty(),
        }
    }

    /// The subscriptions that are nobody else's business: each of them gets every message.
    pub(super) fn plain(&self) -> &[Entry<S>] {
        match self {
            List::Empty => &[],
            List::One(entry) => std::slice::from_ref(entry),
            List::Many(many) => &many.plain,
        }
    }

    /// The shared subscriptions: one member of each gets a message.
    pub(super) fn groups(&mut self) -> &mut [Group<S>] {
        match self {
            List::Many(many) => &mut many.groups,
            List::Empty | List::One(_) => &mut [],
        }
    }

    /// One shared subscription, by name.
    pub(super) fn group(&mut self, share: &str) -> Option<&mut Group<S>> {
        self.groups().iter_mut().find(|group| &*group.name == share)
    }

    /// Adds or replaces; true if it is new. `share`: name and whole text of a shared subscription.
    pub(super) fn set(&mut self, share: Option<(&str, &Text)>, entry: Entry<S>) -> bool {
        match (&mut *self, share) {
            (List::Empty, None) => {
                *self = List::One(entry);
                return true;
            }
            (List::One(old), None) if old.subscriber == entry.subscriber => {
                *old = entry;
                return false;
            }
            _ => {}
        }
        let many = self.widen();
        let Some((share, text)) = share else { return put(&mut many.plain, entry) };
        if let Some(group) = many.groups.iter_mut().find(|g| &*g.name == share) {
            return put(&mut group.members, entry);
        }
        many.groups.push(Group { name: share.into(), text: text.clone(), members: vec![entry], next: 0 });
        true
    }

    /// Removes one subscription; false if there was none.
    pub(super) fn remove(&mut self, share: Option<&str>, subscriber: S) -> bool {
        match (&mut *self, share) {
            (List::One(entry), None) if entry.subscriber == subscriber => {
                *self = List::Empty;
                true
            }
            (List::Many(many), None) => take(&mut many.plain, subscriber),
            (List::Many(many), Some(share)) => {
                let Some(at) = many.groups.iter().position(|g| &*g.name == share) else { return false };
                let Some(group) = many.groups.get_mut(at) else { return false };
                let removed = take(&mut group.members, subscriber);
                if group.members.is_empty() {
                    many.groups.remove(at);
                }
                removed
            }
            _ => false,
        }
    }

    /// Removes whatever this subscriber has here; how many subscriptions that was.
    pub(super) fn remove_all(&mut self, subscriber: S) -> usize {
        let mut removed = usize::from(self.remove(None, subscriber));
        if let List::Many(many) = self {
            for group in &mut many.groups {
                removed += usize::from(take(&mut group.members, subscriber));
            }
            many.groups.retain(|group| !group.members.is_empty());
        }
        removed
    }

    fn widen(&mut self) -> &mut Many<S> {
        if !matches!(self, List::Many(_)) {
            let plain = self.plain().to_vec();
            *self = List::Many(Box::new(Many { plain, groups: Vec::new() }));
        }
        match self {
            List::Many(many) => many,
            List::Empty | List::One(_) => unreachable!("it was made `Many` a line above"),
        }
    }
}

impl<S: Copy + Ord> Group<S> {
    /// `$share/NAME/filter`.
    pub(super) fn text(&self) -> &Text {
        &self.text
    }

    /// Whose turn it is: round robin over the members that `preferred` likes, over all if it likes none.
    pub(super) fn pick(&mut self, preferred: impl Fn(S) -> bool) -> Option<Entry<S>> {
        let count = self.members.len();
        let turn = |offset: usize| (self.next + offset) % count.max(1);
        let liked = |at: &usize| self.members.get(*at).is_some_and(|m| preferred(m.subscriber));
        let at = (0..count).map(turn).find(liked).unwrap_or_else(|| turn(0));
        self.next = at + 1;
        self.members.get(at).copied()
    }
}

fn put<S: Copy + Ord>(entries: &mut Vec<Entry<S>>, entry: Entry<S>) -> bool {
    match entries.binary_search_by_key(&entry.subscriber, |e| e.subscriber) {
        Ok(at) => {
            if let Some(old) = entries.get_mut(at) {
                *old = entry;
            }
            false
        }
        Err(at) => {
            entries.insert(at, entry);
            true
        }
    }
}

fn take<S: Copy + Ord>(entries: &mut Vec<Entry<S>>, subscriber: S) -> bool {
    let found = entries.binary_search_by_key(&subscriber, |e| e.subscriber);
    found.is_ok_and(|at| {
        entries.remove(at);
        true
    })
}

/// Things with small numbers that are used again. A slot that is free holds the default.
#[derive(Clone, Debug)]
pub(super) struct Arena<T> {
    items: Vec<T>,
    free: Vec<u32>,
}

impl<T: Default> Arena<T> {
    pub(super) fn new() -> Arena<T> {
        Arena { items: Vec::new(), free: Vec::new() }
    }

    pub(super) fn insert(&mut self, item: T) -> u32 {
        if let Some(id) = self.free.pop() {
            *self.get_mut(id) = item;
            return id;
        }
        let id = u32::try_from(self.items.len()).expect("memory ends before 4 G items");
        self.items.push(item);
        id
    }

    pub(super) fn remove(&mut self, id: u32) -> T {
        self.free.push(id);
        std::mem::take(self.get_mut(id))
    }

    pub(super) fn get(&self, id: u32) -> &T {
        self.items.get(id as usize).expect("ids come from `insert` alone")
    }

    pub(super) fn get_mut(&mut self, id: u32) -> &mut T {
        self.items.get_mut(id as usize).expect("ids come from `insert` alone")
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.items.len() - self.free.len()
    }
}
