//! RFC 3339 timestamps, the CloudEvents Timestamp type.

use crate::event::Timestamp;

const DAY_MS: u64 = 86_400_000;
/// 9999-12-31T23:59:59.999Z: RFC 3339 has four digits for the year.
const LAST_MS: u64 = 253_402_300_799_999;

/// `2026-11-24T03:20:27.123Z`; without the fraction on a whole second. `None` after the year 9999.
#[must_use]
pub fn format_rfc3339(time: Timestamp) -> Option<String> {
    if time.0 > LAST_MS {
        return None;
    }
    let (days, ms) = (time.0 / DAY_MS, time.0 % DAY_MS);
    let (year, month, day) = civil_from_days(days);
    let mut text = Vec::with_capacity(24);
    put_digits(&mut text, year, 4);
    for (sign, value) in [
        (b'-', month),
        (b'-', day),
        (b'T', ms / 3_600_000),
        (b':', ms / 60_000 % 60),
        (b':', ms / 1_000 % 60),
    ] {
        text.push(sign);
        put_digits(&mut text, value, 2);
    }
    if ms % 1_000 != 0 {
        text.push(b'.');
        put_digits(&mut text, ms % 1_000, 3);
    }
    text.push(b'Z');
    String::from_utf8(text).ok()
}

/// `value` in decimal, with leading zeros up to `width`.
pub(super) fn put_digits(text: &mut Vec<u8>, mut value: u64, width: usize) {
    let at = text.len();
    text.resize(at + width, b'0');
    for digit in text.iter_mut().skip(at).rev() {
        *digit += u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
    }
}

/// Year, month and day of a day number since 1970-01-01, in the proleptic Gregorian calendar: eras of 400 years that begin on
/// 1 March, so that the leap day is the last of its year.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// The inverse, for any date from 0000-03-01 on.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let march_month = (month + 9) % 12;
    let day_of_year = (153 * march_month + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Reads any RFC 3339 `date-time`: offsets, lower-case `t` and `z`, any number of fractional digits (cut to milliseconds), leap
/// seconds (taken as the next second). `None` for anything else and for times before 1970.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    let mut rest = text.as_bytes();
    let year = digits(&mut rest, 4)?;
    let month = digits_after(&mut rest, b"-", 2)?;
    let day = digits_after(&mut rest, b"-", 2)?;
    let hour = digits_after(&mut rest, b"Tt", 2)?;
    let minute = digits_after(&mut rest, b":", 2)?;
    let second = digits_after(&mut rest, b":", 2)?;
    let ms = fraction_ms(&mut rest)?;
    let offset_minutes = offset(rest)?;
    let leap_year = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_in_month = match month {
        2 => 28 + i64::from(leap_year),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=days_in_month).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let minutes = (days_from_civil(year, month, day) * 24 + hour) * 60 + minute - offset_minutes;
    u64::try_from((minutes * 60 + second) * 1_000 + ms).ok().map(Timestamp)
}

fn digits(rest: &mut &[u8], count: usize) -> Option<i64> {
    let (head, tail) = rest.split_at_checked(count)?;
    *rest = tail;
    head.iter().try_fold(0, |n, b| b.is_ascii_digit().then(|| n * 10 + i64::from(b - b'0')))
}

fn digits_after(rest: &mut &[u8], one_of: &[u8], count: usize) -> Option<i64> {
    let (first, tail) = rest.split_first()?;
    *rest = tail;
    if one_of.contains(first) { digits(rest, count) } else { None }
}

fn fraction_ms(rest: &mut &[u8]) -> Option<i64> {
    let Some(tail) = rest.strip_prefix(b".") else { return Some(0) };
    let len = tail.iter().take_while(|b| b.is_ascii_digit()).count();
    let (fraction, tail) = tail.split_at_checked(len).filter(|_| len > 0)?;
    *rest = tail;
    let digit = |place: usize| fraction.get(place).map_or(0, |b| i64::from(b - b'0'));
    Some(digit(0) * 100 + digit(1) * 10 + digit(2))
}

/// Minutes east of UTC.
fn offset(mut rest: &[u8]) -> Option<i64> {
    let (sign, tail) = rest.split_first()?;
    rest = tail;
    let sign = match sign {
        b'Z' | b'z' => return rest.is_empty().then_some(0),
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let hours = digits(&mut rest, 2)?;
    let minutes = digits_after(&mut rest, b":", 2)?;
    (rest.is_empty() && hours <= 23 && minutes <= 59).then_some(sign * (hours * 60 + minutes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 3339 section 5.8.
    #[test]
    fn the_examples_of_the_rfc() {
        for (text, same) in [
            ("1985-04-12T23:20:50.52Z", "1985-04-12T23:20:50.520Z"),
            ("1996-12-19T16:39:57-08:00", "1996-12-20T00:39:57Z"),
            ("1990-12-31T23:59:60Z", "1991-01-01T00:00:00Z"),
            ("1990-12-31T15:59:60-08:00", "1991-01-01T00:00:00Z"),
            ("2000-02-29t00:00:00.123456789z", "2000-02-29T00:00:00.123Z"),
        ] {
            assert_eq!(parse_rfc3339(text).and_then(format_rfc3339).as_deref(), Some(same), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_time_is_refused() {
        for text in [
            "",
            "2026",
            "2026-11-24",
            "2026-11-24T03:20:27",
            "2026-11-24 03:20:27Z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-01-01T00:00:61Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00Zx",
            "2026-01-01T00:00:00+1:00",
            "1969-12-31T23:59:59Z",
            "+026-01-01T00:00:00Z",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_here_and_by_chrono(ms in 0..=LAST_MS) {
            let text = format_rfc3339(Timestamp(ms)).unwrap();
            prop_assert_eq!(parse_rfc3339(&text), Some(Timestamp(ms)));
            let theirs = chrono::DateTime::parse_from_rfc3339(&text).unwrap().timestamp_millis();
            prop_assert_eq!(theirs, i64::try_from(ms).unwrap());
        }

        #[test]
        fn what_chrono_writes_with_an_offset_is_read(ms in DAY_MS..=LAST_MS - DAY_MS, minutes in -1_439..=1_439_i32) {
            let zone = chrono::FixedOffset::east_opt(minutes * 60).unwrap();
            let theirs = chrono::DateTime::from_timestamp_millis(i64::try_from(ms).unwrap()).unwrap().with_timezone(&zone);
            prop_assert_eq!(parse_rfc3339(&theirs.to_rfc3339()), Some(Timestamp(ms)));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}") {
            let _time = parse_rfc3339(&text);
        }
    }

    #[test]
    fn after_the_year_9999_there_is_no_text() {
        assert_eq!(format_rfc3339(Timestamp(LAST_MS)).as_deref(), Some("9999-12-31T23:59:59.999Z"));
        assert_eq!(format_rfc3339(Timestamp(LAST_MS + 1)), None);
    }
}
