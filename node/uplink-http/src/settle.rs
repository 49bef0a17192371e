//! What an answer does: to its events, to what waits, to the connection.

use crate::auth::Refusal;
use crate::counters::count;
use crate::exchange::Answer;
use crate::judge::{Verdict, in_words, judge, judge_event};
use crate::outbox::{Item, Parcel};
use crate::receipt;
use crate::uplink::HttpUplink;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::ports::store::Class;
use eventmesh_edge_core::ports::uplink::UplinkEvent;
use std::time::Duration;
use tokio::time::Instant;

impl HttpUplink {
    /// Request `parcel`, sent with credential number `credential`, was answered.
    pub(crate) fn answered(&mut self, index: usize, parcel: Parcel, credential: u64, answer: &Answer) {
        let verdict = judge(answer.status, answer.retry_after.is_some());
        if !matches!(verdict, Verdict::Unauthorized) {
            self.wallet.accepted(credential);
        }
        match verdict {
            Verdict::Taken => self.taken(index, parcel),
            Verdict::PerEvent => self.per_event(index, parcel, answer),
            Verdict::Refused => self.refused(parcel, answer),
            Verdict::TooLarge => self.too_large(parcel, answer),
            Verdict::UnknownForm => self.unknown_form(index, parcel, answer),
            Verdict::Failed => self.failed(index, parcel, answer),
            Verdict::Unauthorized => self.unauthorized(index, parcel, credential, answer),
            Verdict::Unavailable => self.unavailable(index, &words(answer), answer.retry_after),
            Verdict::Moved => self.moved(index, answer),
        }
    }

    fn taken(&mut self, index: usize, parcel: Parcel) {
        if let Some(address) = self.addresses.get_mut(index) {
            address.has_taken = true;
        }
        self.outbox.taken(&parcel);
        self.found.extend(parcel.items.iter().map(acked));
    }

    /// 207: each event has an outcome of its own, if the body can be read.
    fn per_event(&mut self, index: usize, parcel: Parcel, answer: &Answer) {
        let ids: Vec<_> = parcel.items.iter().map(|item| item.outgoing.event.id()).collect();
        let identities: Vec<(&str, &str)> = parcel
            .items
            .iter()
            .zip(&ids)
            .map(|(item, id)| (&*item.outgoing.event.event.source, &**id))
            .collect();
        match receipt::statuses(&answer.body, &identities) {
            Some(statuses) => self.each(index, parcel, &statuses),
            None if parcel.items.len() > 1 => self.split(parcel),
            None => self.fail(parcel.items, "207 Multi-Status, with a body that says nothing of this event"),
        }
    }

    fn each(&mut self, index: usize, parcel: Parcel, statuses: &[u16]) {
        if let Some(address) = self.addresses.get_mut(index) {
            address.has_taken |= statuses.iter().any(|status| judge_event(*status).is_none());
        }
        let mut failed = Vec::new();
        for (item, status) in parcel.items.into_iter().zip(statuses) {
            match judge_event(*status) {
                None => self.found.push(acked(&item)),
                Some(Class::Reject) => self.found.push(refusal(&item, Class::Reject, &in_words(*status))),
                // In order, or not at all: what comes after it waits with it (P4).
                Some(_) if self.is_ordered() => failed.push((item, *status)),
                Some(class) => self.found.push(refusal(&item, class, &in_words(*status))),
            }
        }
        if let Some((first, status)) = failed.into_iter().next() {
            self.fail(vec![first], &in_words(status));
        }
    }

    fn refused(&mut self, mut parcel: Parcel, answer: &Answer) {
        if parcel.items.len() > 1 {
            self.split(parcel);
        } else if !self.outbox.other_form(&mut parcel) {
            self.reject(parcel.items, &words(answer));
        }
    }

    fn too_large(&mut self, mut parcel: Parcel, answer: &Answer) {
        if parcel.items.len() > 1 {
            count(&self.shared.counters.batches_split);
            self.outbox.split_by_size(parcel);
        } else if !self.outbox.other_form(&mut parcel) {
            self.reject(parcel.items, &words(answer));
        }
    }

    /// 415 is an event's fault only where others were taken. From a receiver that has never taken any it says that the
    /// configuration is wrong, and no event pays for that with its life.
    fn unknown_form(&mut self, index: usize, mut parcel: Parcel, answer: &Answer) {
        if self.outbox.without_gzip(&mut parcel) {
            tracing::debug!("the receiver may not take compressed bodies, going on without");
        } else if parcel.items.len() > 1 {
            self.split(parcel);
        } else if self.outbox.other_form(&mut parcel) {
            // On its way again.
        } else if self.addresses.get(index).is_some_and(|address| address.has_taken) {
            self.reject(parcel.items, &words(answer));
        } else {
            let words =
                format!("{}, for every form of an event: is it a CloudEvents receiver?", words(answer));
            self.unavailable(index, &words, None);
        }
    }

    /// 500 and the like: possibly because of one event, possibly not. Fewer at a time shows which.
    fn failed(&mut self, index: usize, parcel: Parcel, answer: &Answer) {
        if parcel.items.len() > 1 {
            self.outbox.shrink(parcel.items.len() / 2);
            self.unavailable(index, &words(answer), answer.retry_after);
        } else {
            self.fail(parcel.items, &words(answer));
        }
    }

    fn unauthorized(&mut self, index: usize, parcel: Parcel, credential: u64, answer: &Answer) {
        match self.wallet.refused(credential) {
            Refusal::Outdated => self.outbox.again(parcel),
            Refusal::Renew => {
                self.outbox.again(parcel);
                self.renew_now();
            }
            Refusal::Final => {
                let words = format!(
                    "{}: the credential is refused, nothing is sent until it is accepted",
                    words(answer)
                );
                self.unavailable(index, &words, answer.retry_after);
            }
        }
    }

    fn moved(&mut self, index: usize, answer: &Answer) {
        let place = answer
            .moved_to
            .as_deref()
            .and_then(|place| place.split('?').next())
            .unwrap_or("an unknown place");
        let words = format!("{} to {place}, which is not followed", in_words(answer.status));
        self.unavailable(index, &words, answer.retry_after);
    }

    fn split(&mut self, parcel: Parcel) {
        count(&self.shared.counters.batches_split);
        self.outbox.split(parcel);
    }

    fn reject(&mut self, items: Vec<Item>, words: &str) {
        self.found.extend(items.iter().map(|item| refusal(item, Class::Reject, words)));
    }

    /// An event failed alone. Where order counts, what was sent after it must not overtake it: the connection ends.
    fn fail(&mut self, items: Vec<Item>, words: &str) {
        let class = if self.is_ordered() { Class::Fatal } else { Class::Retry };
        for item in &items {
            self.outbox.suspect(item);
            self.found.push(refusal(item, class, words));
        }
        if class == Class::Fatal {
            self.stand_down();
        }
    }

    /// Nothing is taken at present; no event is at fault.
    pub(crate) fn unavailable(&mut self, index: usize, words: &str, retry_after: Option<Duration>) {
        let cause = format!("{}: {words}", self.url(index));
        if let (Some(wait), Some(address)) = (retry_after, self.addresses.get_mut(index)) {
            address.pause = Some((Instant::now() + wait, cause.clone()));
        }
        self.end(UplinkEvent::Unavailable { cause: Text::from(cause), retry_after });
    }
}

fn acked(item: &Item) -> UplinkEvent {
    let (stream, position) = item.key();
    UplinkEvent::Acked { stream, position }
}

fn refusal(item: &Item, class: Class, words: &str) -> UplinkEvent {
    let (stream, position) = item.key();
    UplinkEvent::Failed { stream, position, class, reason: Text::from(words.to_owned()) }
}

/// Status and title: nothing that could hold a payload (P7).
fn words(answer: &Answer) -> String {
    let mut words = in_words(answer.status);
    if let Some(title) = &answer.title {
        words = format!("{words} ({title})");
    }
    if let Some(wait) = answer.retry_after {
        words = format!("{words}, retry after {} s", wait.as_secs());
    }
    words
}
