//! What the runtime's answers mean for an event, and for the connection.
//!
//! gRPC status is OK even for errors: the `statuscode` attribute of the answering event is what counts, in gRPC's own numbering (HTTP
//! numbers differently). Where the call itself failed, the gRPC status counts.

use crate::call::CallError;
use crate::proto::CloudEvent;
use prost::Message as _;

/// Longest part of a runtime's own words that is kept.
const WORDS_MAX: usize = 200;

/// What is to be done about one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// In the runtime's storage.
    Taken,
    /// Too fast: again, here, after a pause.
    Slower,
    /// This runtime stops: again, on another one.
    Elsewhere,
    /// The topic is not there yet: held per topic, for as long as it takes.
    Hold,
    /// Again, here, a limited number of times.
    Later,
    /// The event is wrong and stays wrong.
    Never,
    /// We are not let in: again, when that has changed.
    Denied,
}

/// A verdict with its reason in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) verdict: Verdict,
    pub(crate) words: String,
}

/// `statuscode` and `responsemessage` of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    /// `None`: the answer has no status code, or one that is no number.
    pub(crate) code: Option<u16>,
    pub(crate) message: String,
}

impl Status {
    pub(crate) fn of(event: &CloudEvent) -> Status {
        Status {
            code: event.text("statuscode").and_then(|code| code.parse().ok()),
            message: event.text("responsemessage").unwrap_or_default().to_owned(),
        }
    }

    /// What a publish that is answered so has to expect.
    pub(crate) fn verdict(&self) -> Verdict {
        match self.code {
            Some(0) => Verdict::Taken,
            Some(1 | 21) => Verdict::Slower,
            Some(8 | 13) => Verdict::Elsewhere,
            Some(2 | 6 | 7) => Verdict::Never,
            Some(14) if is_the_events_fault(&self.message) => Verdict::Never,
            Some(14) => Verdict::Hold,
            Some(20) => Verdict::Denied,
            // 9 to 12, 15, 16, and what no runtime that was seen says to a publish.
            _ => Verdict::Later,
        }
    }

    /// In words for a log: the code, its name, the first line of what the runtime says.
    pub(crate) fn words(&self) -> String {
        let own = clean(&self.message);
        match self.code {
            None => format!("answer without a status code: {own}"),
            Some(code) => format!("code {code} ({}): {own}", name(code)),
        }
    }
}

/// What became of a `publish`.
pub(crate) fn of_publish(result: Result<bytes::Bytes, CallError>) -> Answer {
    match result {
        Ok(body) => match CloudEvent::decode(body) {
            Ok(event) => of_status(&Status::of(&event)),
            Err(error) => Answer { verdict: Verdict::Later, words: format!("answer is no event: {error}") },
        },
        Err(error) => of_error(&error),
    }
}

fn of_status(status: &Status) -> Answer {
    match status.verdict() {
        Verdict::Taken => Answer { verdict: Verdict::Taken, words: String::new() },
        verdict => Answer { verdict, words: status.words() },
    }
}

/// Code 14 says "storage refused" as well as "this can never be stored"; only the text tells.
fn is_the_events_fault(message: &str) -> bool {
    ["Invalid specversion", "Invalid extensions name", "Cannot find the Protocol adaptor"]
        .iter()
        .any(|text| message.contains(text))
}

/// A call that failed below the runtime's own answers.
pub(crate) fn of_error(error: &CallError) -> Answer {
    let verdict = match error {
        CallError::Grpc { status, message } => of_grpc(*status, message),
        // 401, 403: whoever terminates TLS for the runtime.
        CallError::Http(401 | 403) => Verdict::Denied,
        CallError::Http(429) => Verdict::Slower,
        CallError::Http(_) => Verdict::Elsewhere,
        CallError::Reset(h2::Reason::REFUSED_STREAM | h2::Reason::ENHANCE_YOUR_CALM) => Verdict::Slower,
        CallError::Reset(_) | CallError::Malformed(_) | CallError::Frame(_) => Verdict::Later,
        CallError::Lost(_) => Verdict::Elsewhere,
    };
    Answer { verdict, words: error.to_string() }
}

/// gRPC status codes (google.rpc.Code).
fn of_grpc(status: u16, message: &str) -> Verdict {
    match status {
        3 => Verdict::Never,
        7 | 16 => Verdict::Denied,
        // "gRPC message exceeds maximum size 4194304": sizes are known here before sending, so this runtime has a smaller limit.
        8 if message.contains("exceeds maximum size") => Verdict::Never,
        8 => Verdict::Slower,
        12 | 14 => Verdict::Elsewhere,
        _ => Verdict::Later,
    }
}

fn name(code: u16) -> &'static str {
    match code {
        0 => "success",
        1 => "overload",
        2 => "bad request code",
        3 | 4 | 22 => "request-reply",
        6 => "header",
        7 => "body",
        8 => "stopping",
        9 => "rejected by processor",
        10 => "batch producer stopped",
        11 => "batch speed over limit",
        12 => "package",
        13 => "producer stopped",
        14 => "storage or topic",
        15 => "reply",
        16 => "runtime",
        17 => "subscribe",
        18 => "unsubscribe",
        19 => "heartbeat",
        20 => "access denied",
        21 => "speed over limit",
        30 => "resubscribe",
        _ => "unknown",
    }
}

/// One line, cut, without control characters: a stack trace comes along with code 14.
pub(crate) fn clean(words: &str) -> String {
    words.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(WORDS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(code: u16, message: &str) -> Verdict {
        of_status(&Status { code: Some(code), message: message.to_owned() }).verdict
    }

    #[test]
    fn every_code_has_its_verdict() {
        use Verdict as V;
        let table = [
            (0, V::Taken),
            (1, V::Slower),
            (21, V::Slower),
            (8, V::Elsewhere),
            (13, V::Elsewhere),
            (2, V::Never),
            (6, V::Never),
            (7, V::Never),
            (9, V::Later),
            (10, V::Later),
            (11, V::Later),
            (12, V::Later),
            (15, V::Later),
            (16, V::Later),
            (20, V::Denied),
            (99, V::Later),
        ];
        for (code, expected) in table {
            assert_eq!(verdict(code, ""), expected, "{code}");
        }
        assert_eq!(of_status(&Status { code: None, message: String::new() }).verdict, V::Later);
    }

    #[test]
    fn code_14_is_a_missing_topic_or_a_wrong_event() {
        assert_eq!(verdict(14, "eventMesh send async msg err,  Send message error, topic: t"), Verdict::Hold);
        for text in [
            "Invalid extensions name: Bad-Name",
            "Cannot find the Protocol adaptor: null",
            "Invalid specversion: 2",
        ] {
            assert_eq!(verdict(14, &format!("eventMesh send async msg err,  {text}")), Verdict::Never);
        }
    }

    #[test]
    fn failed_calls() {
        let grpc = |status, message: &str| CallError::Grpc { status, message: message.to_owned() };
        let table = [
            (grpc(14, ""), Verdict::Elsewhere),
            (grpc(12, ""), Verdict::Elsewhere),
            (grpc(8, "gRPC message exceeds maximum size 4194304: 5000000"), Verdict::Never),
            (grpc(8, "quota"), Verdict::Slower),
            (grpc(16, ""), Verdict::Denied),
            (grpc(2, ""), Verdict::Later),
            (CallError::Http(502), Verdict::Elsewhere),
            (CallError::Http(403), Verdict::Denied),
            (CallError::Reset(h2::Reason::REFUSED_STREAM), Verdict::Slower),
        ];
        for (error, expected) in table {
            assert_eq!(of_error(&error).verdict, expected, "{error}");
        }
    }

    #[test]
    fn a_stack_trace_stays_where_it_came_from() {
        let status =
            Status { code: Some(14), message: "no topic\u{7}\norg.apache.Foo(Foo.java:94)".to_owned() };
        assert_eq!(status.words(), "code 14 (storage or topic): no topic");
    }
}
