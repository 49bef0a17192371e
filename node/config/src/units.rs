//! Sizes and times with their units written out.
//!
//! A bare number is refused: `disk_max = 4` may have been meant in bytes, MB or GiB, and the gateway that finds out is
//! far away.

use std::fmt;
use std::time::Duration;

/// A number of bytes, written `"4 GiB"` or `"1.5 MB"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

impl ByteSize {
    /// So many bytes.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> ByteSize {
        ByteSize(bytes)
    }

    /// So many KiB (1,024 bytes).
    #[must_use]
    pub const fn from_kib(kib: u64) -> ByteSize {
        ByteSize(kib << 10)
    }

    /// So many MiB.
    #[must_use]
    pub const fn from_mib(mib: u64) -> ByteSize {
        ByteSize(mib << 20)
    }

    /// So many GiB.
    #[must_use]
    pub const fn from_gib(gib: u64) -> ByteSize {
        ByteSize(gib << 30)
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// In bytes, where memory is meant; saturates on a 32-bit gateway.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// Largest unit first: `Display` takes the first that divides.
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl fmt::Display for ByteSize {
    /// In the largest unit that needs no fraction, so that what is printed can be written back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = SIZES
            .into_iter()
            .find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor))
            .unwrap_or(("B", 1));
        write!(f, "{} {unit}", self.0 / factor)
    }
}

/// Why a text is not a size or a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// A bare number of bytes.
    #[error("a size needs a unit: B, KiB, MiB, GiB, kB, MB or GB, as in \"64 MiB\"")]
    SizeWithoutUnit,
    /// A unit of size that is none.
    #[error("not a unit of size: use B, KiB, MiB, GiB, kB, MB or GB, as in \"64 MiB\"")]
    UnknownSizeUnit,
    /// A bare number of something.
    #[error("a time needs a unit: ms, s, min, h or days, as in \"250 ms\"")]
    TimeWithoutUnit,
    /// A unit of time that is none.
    #[error("not a unit of time: use ms, s, min, h or days, as in \"250 ms\"")]
    UnknownTimeUnit,
    /// No number in front.
    #[error("starts with no number: write it as in \"64 MiB\" or \"250 ms\"")]
    NoNumber,
    /// Does not fit 64 bits.
    #[error("is too large")]
    TooLarge,
}

/// Reads `"4 GiB"`.
///
/// # Errors
/// [`UnitError`] says what is missing and how to write it.
pub fn parse_size(text: &str) -> Result<ByteSize, UnitError> {
    let (number, unit) = split(text)?;
    let factor = match unit {
        "" => return Err(UnitError::SizeWithoutUnit),
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(UnitError::UnknownSizeUnit),
    };
    number.times(factor).map(ByteSize)
}

/// Reads `"250 ms"` or `"7 days"`, to the millisecond.
///
/// # Errors
/// [`UnitError`] says what is missing and how to write it.
pub fn parse_time(text: &str) -> Result<Duration, UnitError> {
    let (number, unit) = split(text)?;
    let factor_ms = match unit {
        "" => return Err(UnitError::TimeWithoutUnit),
        "ms" | "millisecond" | "milliseconds" => 1,
        "s" | "second" | "seconds" => 1_000,
        // No "m": some read it as minutes, some as months.
        "min" | "minute" | "minutes" => 60_000,
        "h" | "hour" | "hours" => 3_600_000,
        "d" | "day" | "days" => 86_400_000,
        "week" | "weeks" => 604_800_000,
        _ => return Err(UnitError::UnknownTimeUnit),
    };
    number.times(factor_ms).map(Duration::from_millis)
}

/// A time in the largest unit that needs no fraction: what [`parse_time`] reads back.
#[must_use]
pub fn show_time(time: Duration) -> String {
    let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let units = [("day", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)];
    let (unit, factor) =
        units.into_iter().find(|(_, factor)| ms != 0 && ms.is_multiple_of(*factor)).unwrap_or(("s", 1_000));
    let n = ms / factor;
    let plural = if unit == "day" && n != 1 { "s" } else { "" };
    format!("{n} {unit}{plural}")
}

/// A decimal number without rounding: `digits / 10^decimals`.
struct Number {
    digits: u64,
    decimals: u32,
}

impl Number {
    fn times(&self, factor: u64) -> Result<u64, UnitError> {
        let scale = 10_u128.checked_pow(self.decimals).ok_or(UnitError::TooLarge)?;
        u64::try_from(u128::from(self.digits) * u128::from(factor) / scale).map_err(|_| UnitError::TooLarge)
    }
}

fn split(text: &str) -> Result<(Number, &str), UnitError> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if !whole.starts_with(|c: char| c.is_ascii_digit()) || fraction.contains('.') {
        return Err(UnitError::NoNumber);
    }
    let digits: String = whole.chars().chain(fraction.chars()).filter(|c| *c != '_').collect();
    let decimals =
        u32::try_from(fraction.chars().filter(|c| *c != '_').count()).map_err(|_| UnitError::TooLarge)?;
    let digits = digits.parse().map_err(|_| UnitError::TooLarge)?;
    Ok((Number { digits, decimals }, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_read_with_their_unit() {
        for (text, bytes) in [
            ("0 B", 0),
            ("256KiB", 262_144),
            ("4 GiB", 4 << 30),
            ("1.5 GiB", 3 << 29),
            ("10 MB", 10_000_000),
            ("1_000 kB", 1_000_000),
            (" 7 B ", 7),
        ] {
            assert_eq!(parse_size(text).map(ByteSize::bytes), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn times_are_read_with_their_unit() {
        for (text, ms) in [
            ("250 ms", 250),
            ("10s", 10_000),
            ("1.5 min", 90_000),
            ("1 h", 3_600_000),
            ("7 days", 7 * 86_400_000),
            ("2 weeks", 14 * 86_400_000),
        ] {
            assert_eq!(parse_time(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(parse_size("4"), Err(UnitError::SizeWithoutUnit));
        assert_eq!(parse_size("4 gigs"), Err(UnitError::UnknownSizeUnit));
        assert_eq!(parse_size("GiB"), Err(UnitError::NoNumber));
        assert_eq!(parse_size("-4 GiB"), Err(UnitError::NoNumber));
        assert_eq!(parse_size("1.2.3 GiB"), Err(UnitError::NoNumber));
        assert_eq!(parse_size("99999999999 TiB"), Err(UnitError::TooLarge));
        assert_eq!(parse_time("5 m"), Err(UnitError::UnknownTimeUnit));
        assert_eq!(parse_time("10"), Err(UnitError::TimeWithoutUnit));
    }

    proptest! {
        #[test]
        fn a_printed_size_reads_back(bytes: u64) {
            let size = ByteSize::from_bytes(bytes);
            prop_assert_eq!(parse_size(&size.to_string()), Ok(size));
        }

        #[test]
        fn a_printed_time_reads_back(ms in 0_u64..u64::MAX / 2) {
            let time = Duration::from_millis(ms);
            prop_assert_eq!(parse_time(&show_time(time)), Ok(time));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            // Only that both return: the answers are checked above.
            prop_assert!(parse_size(&text).is_ok() || parse_size(&text).is_err());
            prop_assert!(parse_time(&text).is_ok() || parse_time(&text).is_err());
        }
    }
}
