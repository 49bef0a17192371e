//! Retry-After (RFC 9110 section 10.2.3): seconds, or a date.

use hyper::HeaderMap;
use hyper::header::{DATE, RETRY_AFTER};
use std::time::{Duration, SystemTime};

/// Longer is taken for this long: a receiver's slip must not silence a node for years (P5).
const MAX: Duration = Duration::from_secs(3_600);

/// How long the receiver asks to be left alone. A date is compared with the receiver's own `Date`, so that neither clock
/// has to be right; without one it says nothing.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let asked = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        // All digits, more than a u64 holds: a long time all the same.
        Err(_) if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => MAX,
        Err(_) => until(httpdate::parse_http_date(value).ok()?, date(headers)?),
    };
    Some(asked.min(MAX))
}

fn date(headers: &HeaderMap) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()
}

fn until(then: SystemTime, now: SystemTime) -> Duration {
    then.duration_since(now).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    fn asked(retry: &str, date: Option<&str>) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_str(retry).unwrap());
        if let Some(date) = date {
            headers.insert(DATE, HeaderValue::from_str(date).unwrap());
        }
        retry_after(&headers)
    }

    const NOON: &str = "Tue, 24 Nov 2026 12:00:00 GMT";

    #[test]
    fn both_forms() {
        let secs = |s| Some(Duration::from_secs(s));
        assert_eq!(asked("120", None), secs(120));
        assert_eq!(asked(" 0 ", None), secs(0));
        assert_eq!(asked("Tue, 24 Nov 2026 12:01:30 GMT", Some(NOON)), secs(90));
        assert_eq!(asked("Tuesday, 24-Nov-26 12:01:30 GMT", Some(NOON)), secs(90), "RFC 850");
        assert_eq!(asked("Tue Nov 24 12:01:30 2026", Some(NOON)), secs(90), "asctime");
        assert_eq!(asked("Tue, 24 Nov 2026 11:00:00 GMT", Some(NOON)), secs(0), "already past");
        assert_eq!(asked("Tue, 24 Nov 2026 12:01:30 GMT", None), None, "nothing to compare it with");
    }

    #[test]
    fn nonsense_says_nothing_and_years_are_an_hour() {
        assert_eq!(asked("soon", Some(NOON)), None);
        assert_eq!(asked("-5", None), None);
        assert_eq!(asked("1.5", None), None);
        assert_eq!(asked("99999999999999999999999", None), Some(MAX));
        assert_eq!(asked("86400", None), Some(MAX));
        assert_eq!(asked("Mon, 24 Nov 2036 12:00:00 GMT", Some(NOON)), Some(MAX));
    }

    proptest! {
        #[test]
        fn any_value_is_bounded(value in "[ -~]{0,40}") {
            prop_assert!(asked(&value, Some(NOON)).is_none_or(|d| d <= MAX));
        }
    }
}
