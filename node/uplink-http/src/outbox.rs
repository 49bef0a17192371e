//! What waits to be sent, and how much of it makes the next request. No I/O.
//!
//! A batch that is refused as a whole goes back to the front and leaves again in smaller ones, until the event that is at
//! fault stands alone: each event has a `cap`, halved with every refusal that it was part of, so isolation ends after
//! log2(n) rounds, whatever other connections do meanwhile. If that one event is then taken alone, in the structured mode,
//! it was the batch that the receiver does not understand, and it is sent no more of them.
//!
//! A batch that fails (500) without being refused is nobody's fault for certain. The common `limit` is halved by such
//! failures and doubled by batches that are taken; an event that fails alone is kept alone.

use crate::encode::{self, Content, Form};
use crate::options::{Mode, Options};
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::store::StreamId;
use eventmesh_edge_core::ports::uplink::Outgoing;
use std::collections::VecDeque;

/// Events sent alone and taken before a batch of two is tried again.
const SINGLES_BEFORE_BATCH: u32 = 32;
/// Events remembered for having failed alone; they are not put among others again.
const SUSPECTS_MAX: usize = 64;
/// A receiver that takes less than this takes no events.
const LEAST_BYTES: usize = 1_024;

/// One event on its way.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) outgoing: Outgoing,
    /// Most events that it may share a request with, itself included.
    cap: usize,
    /// The other form that it is to be tried in.
    form: Option<Form>,
    /// The JSON format, once it was made.
    json: Option<Vec<u8>>,
}

impl Item {
    pub(crate) fn key(&self) -> (StreamId, Position) {
        (self.outgoing.stream, self.outgoing.event.position)
    }
}

/// What goes out next.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) items: Vec<Item>,
    pub(crate) form: Form,
    pub(crate) content: Content,
    /// Bytes before compression.
    pub(crate) bytes: usize,
}

#[derive(Debug)]
pub(crate) struct Outbox {
    queue: VecDeque<Item>,
    mode: Mode,
    gzip: bool,
    events_max: usize,
    bytes_max: usize,
    /// Most events of the next batch.
    limit: usize,
    /// Most bytes of the next batch.
    bytes_limit: usize,
    singles: u32,
    suspects: VecDeque<(StreamId, Position)>,
    /// Batches of one are refused, the same events are taken alone.
    no_batches: bool,
    no_gzip: bool,
}

impl Outbox {
    pub(crate) fn new(options: &Options) -> Outbox {
        Outbox {
            queue: VecDeque::new(),
            mode: options.mode,
            gzip: options.gzip,
            events_max: options.batch_events,
            bytes_max: options.batch_bytes,
            limit: options.batch_events,
            bytes_limit: options.batch_bytes,
            singles: 0,
            suspects: VecDeque::new(),
            no_batches: false,
            no_gzip: false,
        }
    }

    pub(crate) fn push(&mut self, outgoing: Outgoing) {
        self.queue.push_back(Item { outgoing, cap: usize::MAX, form: None, json: None });
    }

    /// What an earlier receiver could not do, this one may.
    pub(crate) fn start_anew(&mut self) {
        self.queue.clear();
        self.bytes_limit = self.bytes_max;
        self.no_batches = false;
        self.no_gzip = false;
    }

    pub(crate) fn clear(&mut self) {
        self.queue.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The next request.
    pub(crate) fn next(&mut self) -> Option<Parcel> {
        let first = self.queue.front()?;
        let form = first.form.unwrap_or(match self.mode {
            Mode::Binary => Form::Binary,
            Mode::Batch if !self.no_batches => Form::Batch,
            Mode::Structured | Mode::Batch => Form::Structured,
        });
        let mut parcel = match form {
            Form::Batch => self.batch(),
            Form::Binary | Form::Structured => self.single(form)?,
        };
        if self.gzip && !self.no_gzip {
            parcel.content.gzip();
        }
        Some(parcel)
    }

    fn single(&mut self, form: Form) -> Option<Parcel> {
        let mut item = self.queue.pop_front()?;
        let content = match form {
            Form::Binary => encode::binary(&item.outgoing),
            _ => None,
        };
        let (form, content) = match content {
            Some(content) => (Form::Binary, content),
            None => {
                let json = item.json.take().unwrap_or_else(|| encode::json(&item.outgoing));
                (Form::Structured, encode::structured(json))
            }
        };
        let bytes = content.body.len();
        Some(Parcel { items: vec![item], form, content, bytes })
    }

    fn batch(&mut self) -> Parcel {
        let mut items: Vec<Item> = Vec::with_capacity(self.limit.min(self.queue.len()));
        let (mut bytes, mut most) = (0, self.limit);
        while let Some(item) = self.queue.front_mut() {
            most = most.min(item.cap);
            let alone = item.form.is_some() || is_suspect(&self.suspects, item);
            if !items.is_empty() && (alone || items.len() >= most) {
                break;
            }
            let len = item.json.get_or_insert_with(|| encode::json(&item.outgoing)).len() + 1;
            if !items.is_empty() && bytes + len > self.bytes_limit {
                break;
            }
            bytes += len;
            items.extend(self.queue.pop_front());
            if alone || items.len() >= most {
                break;
            }
        }
        let documents = items.iter().filter_map(|item| item.json.as_deref());
        let content = encode::batch(documents, bytes, items.len());
        let bytes = content.body.len();
        Parcel { items, form: Form::Batch, content, bytes }
    }

    /// A request was taken over.
    pub(crate) fn taken(&mut self, parcel: &Parcel) {
        match parcel.items.as_slice() {
            [one] => {
                self.suspects.retain(|suspect| *suspect != one.key());
                if one.form == Some(Form::Structured) && self.mode == Mode::Batch {
                    self.no_batches = true;
                }
                self.singles += 1;
                if self.limit == 1 && self.singles >= SINGLES_BEFORE_BATCH {
                    self.limit = self.events_max.min(2);
                }
            }
            _ => self.limit = self.limit.saturating_mul(2).min(self.events_max),
        }
    }

    /// Something in a request of several will never be taken: they leave again, fewer at a time.
    pub(crate) fn split(&mut self, parcel: Parcel) {
        let half = (parcel.items.len() / 2).max(1);
        self.back(parcel.items, |item| item.cap = item.cap.min(half));
    }

    /// The same when the body was too large; later ones are kept below that for as long as this receiver lasts.
    pub(crate) fn split_by_size(&mut self, parcel: Parcel) {
        self.bytes_limit = (parcel.bytes / 2).clamp(LEAST_BYTES, self.bytes_limit.max(LEAST_BYTES));
        let half = (parcel.items.len() / 2).max(1);
        self.back(parcel.items, |item| item.cap = item.cap.min(half));
    }

    /// One event was refused in the form it was sent in. True if there is another one: it leaves in that.
    pub(crate) fn other_form(&mut self, parcel: &mut Parcel) -> bool {
        if parcel.form == Form::Structured {
            return false;
        }
        let items = std::mem::take(&mut parcel.items);
        self.back(items, |item| {
            item.form = Some(Form::Structured);
            item.cap = 1;
        });
        true
    }

    /// The receiver may not understand compressed bodies: true if this one was, and everything leaves plain from now on.
    pub(crate) fn without_gzip(&mut self, parcel: &mut Parcel) -> bool {
        if !parcel.content.compressed {
            return false;
        }
        self.no_gzip = true;
        let items = std::mem::take(&mut parcel.items);
        self.back(items, |_| {});
        true
    }

    /// The same request once more.
    pub(crate) fn again(&mut self, parcel: Parcel) {
        self.back(parcel.items, |_| {});
    }

    /// A request of several failed and may have failed because of one of them.
    pub(crate) fn shrink(&mut self, to: usize) {
        self.limit = self.limit.min(to).max(1);
        self.singles = 0;
    }

    /// An event failed alone.
    pub(crate) fn suspect(&mut self, item: &Item) {
        if !is_suspect(&self.suspects, item) {
            self.suspects.push_back(item.key());
            if self.suspects.len() > SUSPECTS_MAX {
                self.suspects.pop_front();
            }
        }
    }

    /// To the front, in their order (P4).
    fn back(&mut self, items: Vec<Item>, mut change: impl FnMut(&mut Item)) {
        for mut item in items.into_iter().rev() {
            change(&mut item);
            self.queue.push_front(item);
        }
    }
}

fn is_suspect(suspects: &VecDeque<(StreamId, Position)>, item: &Item) -> bool {
    !suspects.is_empty() && suspects.contains(&item.key())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::outgoing;
    use crate::url::Url;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn outbox(mode: Mode, events: usize, bytes: usize) -> Outbox {
        let url = Url::parse("http://a/").unwrap();
        Outbox::new(&Options { mode, batch_events: events, batch_bytes: bytes, ..Options::new(vec![url]) })
    }

    fn positions(parcel: &Parcel) -> Vec<u64> {
        parcel.items.iter().map(|item| item.key().1.0).collect()
    }

    /// Sends everything to a receiver that refuses requests with a bad event in it; what it took, what was refused.
    fn drain(outbox: &mut Outbox, bad: impl Fn(&Parcel) -> bool) -> (Vec<u64>, Vec<u64>, usize) {
        let (mut taken, mut refused, mut requests) = (Vec::new(), Vec::new(), 0);
        while let Some(mut parcel) = outbox.next() {
            requests += 1;
            assert!(requests < 10_000, "no end");
            if !bad(&parcel) {
                outbox.taken(&parcel);
                taken.extend(positions(&parcel));
            } else if parcel.items.len() > 1 {
                outbox.split(parcel);
            } else {
                let position = positions(&parcel);
                if !outbox.other_form(&mut parcel) {
                    refused.extend(position);
                }
            }
        }
        (taken, refused, requests)
    }

    #[test]
    fn batches_are_bounded_by_count_and_by_bytes() {
        let mut by_count = outbox(Mode::Batch, 10, 1 << 20);
        let mut by_bytes = outbox(Mode::Batch, 1_000, 2_000);
        for n in 1..=25 {
            by_count.push(outgoing(n));
            by_bytes.push(outgoing(n));
        }
        let mut sizes = Vec::new();
        while let Some(parcel) = by_count.next() {
            sizes.push(parcel.items.len());
        }
        assert_eq!(sizes, [10, 10, 5]);
        let mut all = Vec::new();
        while let Some(parcel) = by_bytes.next() {
            assert!(parcel.content.body.len() <= 2_001, "{}", parcel.content.body.len());
            all.extend(positions(&parcel));
        }
        assert_eq!(all, (1..=25).collect::<Vec<_>>());
    }

    #[test]
    fn one_poison_event_is_found_and_the_others_are_taken_in_order() {
        let mut outbox = outbox(Mode::Batch, 100, 1 << 20);
        (1..=300).for_each(|n| outbox.push(outgoing(n)));
        let (taken, refused, requests) = drain(&mut outbox, |p| positions(p).contains(&77));
        assert_eq!(refused, [77]);
        assert_eq!(taken, (1..=300).filter(|n| *n != 77).collect::<Vec<_>>());
        assert!(requests < 30, "{requests}");
    }

    #[test]
    fn a_receiver_that_takes_no_batches_gets_events_one_by_one() {
        let mut outbox = outbox(Mode::Batch, 100, 1 << 20);
        (1..=500).for_each(|n| outbox.push(outgoing(n)));
        let (taken, refused, requests) = drain(&mut outbox, |p| p.form == Form::Batch);
        assert_eq!((taken.len(), refused.len()), (500, 0));
        assert!(requests < 520, "{requests}: it is remembered");
    }

    #[test]
    fn a_body_limit_is_learned() {
        let mut outbox = outbox(Mode::Batch, 1_000, 1 << 20);
        (1..=1_000).for_each(|n| outbox.push(outgoing(n)));
        let (mut taken, mut refused) = (0, 0);
        while let Some(parcel) = outbox.next() {
            if parcel.content.body.len() > 20_000 {
                refused += 1;
                outbox.split_by_size(parcel);
            } else {
                outbox.taken(&parcel);
                taken += parcel.items.len();
            }
        }
        assert_eq!(taken, 1_000);
        assert!(refused < 8, "{refused}: learned once");
    }

    #[test]
    fn an_event_that_failed_alone_stays_alone() {
        let mut outbox = outbox(Mode::Batch, 10, 1 << 20);
        outbox.push(outgoing(3));
        let parcel = outbox.next().unwrap();
        outbox.suspect(&parcel.items[0]);
        (1..=5).for_each(|n| outbox.push(outgoing(n)));
        let sizes: Vec<_> = std::iter::from_fn(|| outbox.next().map(|p| positions(&p))).collect();
        assert_eq!(sizes, [vec![1, 2], vec![3], vec![4, 5]]);
    }

    #[test]
    fn batches_grow_again_after_trouble() {
        let mut outbox = outbox(Mode::Batch, 64, 1 << 20);
        outbox.shrink(1);
        (1..=400).for_each(|n| outbox.push(outgoing(n)));
        let mut sizes = Vec::new();
        while let Some(parcel) = outbox.next() {
            outbox.taken(&parcel);
            sizes.push(parcel.items.len());
        }
        assert_eq!(sizes[31..38], [1, 2, 4, 8, 16, 32, 64]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Whatever is poisonous, and whatever other connections take meanwhile: exactly that is refused, all else is taken.
        #[test]
        fn isolation_ends(bad in prop::collection::btree_set(1_u64..200, 0..12), flights in 1_usize..4, max in 1_usize..64) {
            let mut outbox = outbox(Mode::Batch, max, 1 << 20);
            (1..200).for_each(|n| outbox.push(outgoing(n)));
            let (mut taken, mut refused, mut flying) = (BTreeSet::new(), BTreeSet::new(), VecDeque::new());
            for round in 0.. {
                prop_assert!(round < 20_000, "no end");
                while flying.len() < flights && let Some(parcel) = outbox.next() {
                    flying.push_back(parcel);
                }
                let Some(mut parcel) = flying.pop_front() else { break };
                let poisonous = positions(&parcel).iter().any(|p| bad.contains(p));
                let of = positions(&parcel);
                if !poisonous {
                    outbox.taken(&parcel);
                    taken.extend(of);
                } else if parcel.items.len() > 1 {
                    outbox.split(parcel);
                } else if !outbox.other_form(&mut parcel) {
                    refused.extend(of);
                }
            }
            prop_assert_eq!(&refused, &bad);
            prop_assert_eq!(taken, (1..200).filter(|n| !bad.contains(n)).collect::<BTreeSet<_>>());
        }
    }
}
