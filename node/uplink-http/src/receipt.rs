//! 207 Multi-Status: what became of each event of a batch.
//!
//! CloudEvents does not say how a receiver reports that it took a part of a batch, and there is no common form. Understood
//! is JSON, either an array or an object with that array under `results`, `items`, `responses` or `events`, with one object
//! per event that has the outcome as a number under `status`, `statusCode`, `status_code` or `code`:
//!
//! - entries with an `id` belong to the event of that id (and of that `source`, if they have one); events of the batch that
//!   no entry names are not understood, so the whole body is not;
//! - entries without an `id` belong to the events in order, and must be as many.
//!
//! Anything else is not understood, and the events are sent again one by one: each has an answer of its own then.

use serde::Deserialize;
use std::collections::HashMap;

/// Most entries looked at: the largest batch, with room.
const ENTRIES_MAX: usize = 65_536;

#[derive(Deserialize)]
#[serde(untagged)]
enum Body {
    List(Vec<Entry>),
    Named {
        #[serde(alias = "items", alias = "responses", alias = "events")]
        results: Vec<Entry>,
    },
}

#[derive(Deserialize)]
struct Entry {
    #[serde(alias = "statusCode", alias = "status_code", alias = "code")]
    status: u16,
    id: Option<String>,
    source: Option<String>,
}

/// The status of each event, in the order of `events` (`source`, `id`); `None` if the body is not understood.
pub(crate) fn statuses(body: &[u8], events: &[(&str, &str)]) -> Option<Vec<u16>> {
    let entries = match serde_json::from_slice(body).ok()? {
        Body::List(entries) | Body::Named { results: entries } => entries,
    };
    if entries.is_empty() || entries.len() > ENTRIES_MAX {
        return None;
    }
    if entries.iter().all(|entry| entry.id.is_none()) {
        return (entries.len() == events.len()).then(|| entries.iter().map(|e| e.status).collect());
    }
    by_id(&entries, events)
}

/// An id that stands for two events of the batch names neither.
fn by_id(entries: &[Entry], events: &[(&str, &str)]) -> Option<Vec<u16>> {
    let mut by_id: HashMap<&str, Vec<&Entry>> = HashMap::new();
    for entry in entries {
        by_id.entry(entry.id.as_deref()?).or_default().push(entry);
    }
    let ambiguous = |id: &str| events.iter().filter(|(_, other)| *other == id).count() > 1;
    let status = |(source, id): &(&str, &str)| {
        let mut of = by_id.get(id)?.iter().filter(|e| e.source.as_deref().is_none_or(|s| s == *source));
        let entry = of.next()?;
        let unique = of.next().is_none() && (entry.source.is_some() || !ambiguous(id));
        unique.then_some(entry.status)
    };
    events.iter().map(status).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EVENTS: [(&str, &str); 3] = [("/a", "1"), ("/a", "2"), ("/b", "2")];

    #[test]
    fn lists_in_order_and_lists_by_id() {
        let ok = Some(vec![202, 400, 503]);
        for body in [
            r#"[{"status":202},{"status":400,"error":"bad"},{"status":503}]"#,
            r#"{"results":[{"status":202},{"statusCode":400},{"code":503}]}"#,
            r#"{"failed":2,"items":[{"status_code":202},{"status":400},{"status":503}]}"#,
            r#"[{"id":"2","source":"/b","status":503},{"id":"1","status":202},{"id":"2","source":"/a","status":400}]"#,
        ] {
            assert_eq!(statuses(body.as_bytes(), &EVENTS), ok, "{body}");
        }
    }

    #[test]
    fn what_leaves_an_event_open_is_not_understood() {
        for body in [
            "",
            "{}",
            "[]",
            "ok",
            r#"[{"status":202},{"status":202}]"#,
            r#"[{"status":"202"},{"status":202},{"status":202}]"#,
            r#"[{"id":"1","status":202},{"id":"2","status":400}]"#,
            r#"[{"id":"1","status":202},{"status":400},{"status":400}]"#,
            r#"{"errors":[{"status":400}]}"#,
        ] {
            assert_eq!(statuses(body.as_bytes(), &EVENTS), None, "{body}");
        }
    }

    proptest! {
        #[test]
        fn any_body_has_one_status_per_event_or_none(body in prop::collection::vec(any::<u8>(), 0..200), n in 0_usize..3) {
            prop_assert!(statuses(&body, &EVENTS[..n]).is_none_or(|s| s.len() == n));
        }
    }
}
