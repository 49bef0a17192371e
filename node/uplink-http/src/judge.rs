//! What an answer means for the events of its request. One table, so that it can be read beside the documentation
//! (`docs/uplinks.md`, "Answers by status").

use eventmesh_edge_core::ports::store::Class;

/// What is to be done about a request that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Taken over, all of it.
    Taken,
    /// The body says what became of each event (207).
    PerEvent,
    /// Something in this request will never be taken: send smaller ones, and refuse the event that is left alone for good.
    Refused,
    /// The body is too large: as `Refused`, and later ones are to be smaller.
    TooLarge,
    /// The receiver does not know this form of an event.
    UnknownForm,
    /// This request failed on its own, possibly because of what is in it: smaller ones, later.
    Failed,
    /// The credential is refused: renew it once, then wait. Never an event's fault.
    Unauthorized,
    /// The receiver, or the way to it, takes nothing at present: the same again later, or elsewhere.
    Unavailable,
    /// The receiver is somewhere else, and redirects are not followed that far.
    Moved,
}

/// The table. `waits`: the answer says when to come back, so it is about the receiver and not about the request.
pub(crate) fn judge(status: u16, waits: bool) -> Verdict {
    match status {
        207 => Verdict::PerEvent,
        200..=299 => Verdict::Taken,
        300..=399 => Verdict::Moved,
        401 | 403 | 407 => Verdict::Unauthorized,
        // A wrong path, or a receiver that has gone: the configuration's fault or the receiver's, and mended there. The
        // CloudEvents webhook specification (section 2.2) lets a receiver end a subscription with 410: stopping is right,
        // giving up what waits is not ours to decide.
        402 | 404 | 405 | 406 | 410 | 411 | 414 | 421 | 426 | 428 => Verdict::Unavailable,
        408 | 425 | 429 => Verdict::Unavailable,
        413 => Verdict::TooLarge,
        415 => Verdict::UnknownForm,
        400 | 422 | 431 => Verdict::Refused,
        400..=499 => Verdict::Failed,
        500 if !waits => Verdict::Failed,
        // 500 to 599, and what is no status at all (RFC 9110 section 15).
        _ => Verdict::Unavailable,
    }
}

/// The same for one event, as a 207 tells it: `None` is taken over.
pub(crate) fn judge_event(status: u16) -> Option<Class> {
    match judge(status, false) {
        Verdict::Taken | Verdict::PerEvent => None,
        Verdict::Refused | Verdict::TooLarge | Verdict::UnknownForm => Some(Class::Reject),
        Verdict::Failed | Verdict::Unauthorized | Verdict::Unavailable | Verdict::Moved => Some(Class::Retry),
    }
}

/// `503 Service Unavailable`.
pub(crate) fn in_words(status: u16) -> String {
    let reason = hyper::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason());
    match reason {
        Some(reason) => format!("{status} {reason}"),
        None => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        use Verdict as V;
        let expected = [
            (V::Taken, vec![200, 201, 202, 204, 299]),
            (V::PerEvent, vec![207]),
            (V::Moved, vec![301, 302, 303, 304, 307, 308]),
            (V::Refused, vec![400, 422, 431]),
            (V::UnknownForm, vec![415]),
            (V::TooLarge, vec![413]),
            (V::Unauthorized, vec![401, 403, 407]),
            (V::Unavailable, vec![404, 405, 408, 410, 425, 429, 501, 502, 503, 504, 507, 520, 100, 999]),
            (V::Failed, vec![409, 412, 418, 423, 451, 500]),
        ];
        for (verdict, statuses) in expected {
            for status in statuses {
                assert_eq!(judge(status, false), verdict, "{status}");
            }
        }
        assert_eq!(judge(500, true), V::Unavailable, "with Retry-After it is about the receiver");
    }

    #[test]
    fn no_status_but_five_condemns_an_event() {
        let condemning: Vec<u16> = (0..1_000).filter(|s| judge_event(*s) == Some(Class::Reject)).collect();
        assert_eq!(condemning, [400, 413, 415, 422, 431]);
        assert!((200..300).all(|s| judge_event(s).is_none()));
    }

    #[test]
    fn words() {
        assert_eq!(in_words(503), "503 Service Unavailable");
        assert_eq!(in_words(599), "599");
    }
}
