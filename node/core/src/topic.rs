//! Topic names and topic filters (MQTT 5.0 section 4.7).
//!
//! A topic *name* is published to and has no wildcards; a topic *filter* subscribes and may have them. Both are made by
//! `parse` alone, so whoever holds one need not check again.

use crate::Text;
use std::fmt;

/// Longest topic name or filter: what an MQTT string can hold [MQTT-4.7.3-3].
pub const MAX_BYTES: usize = 65_535;

/// Why a name or a filter is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// [MQTT-4.7.3-1]
    #[error("a topic has at least one character")]
    Empty,
    /// [MQTT-4.7.3-2]
    #[error("a topic must not contain the null character U+0000")]
    Null,
    /// [MQTT-4.7.3-3]
    #[error("a topic has at most 65,535 bytes")]
    TooLong,
    /// [MQTT-3.3.2-2]
    #[error("`+` and `#` are for filters, a topic name must not contain them")]
    WildcardInName,
    /// [MQTT-4.7.1-1]
    #[error("`#` must be the last level of a filter and stand alone in it")]
    MisplacedHash,
    /// [MQTT-4.7.1-2]
    #[error("`+` must stand alone in its level")]
    MisplacedPlus,
    /// [MQTT-4.8.2-1], [MQTT-4.8.2-2]
    #[error(
        "a shared subscription is `$share/NAME/FILTER`, with a name that is not empty and has no wildcard"
    )]
    BadShare,
}

/// A valid topic name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(Text);

impl TopicName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`TopicError`] if it is empty, too long, or has a wildcard or U+0000.
    pub fn parse(name: impl Into<Text>) -> Result<TopicName, TopicError> {
        let name = name.into();
        check_common(&name)?;
        if name.bytes().any(|b| b == b'+' || b == b'#') {
            return Err(TopicError::WildcardInName);
        }
        Ok(TopicName(name))
    }

    /// The text.
    #[must_use]
    pub fn as_text(&self) -> &Text {
        &self.0
    }

    /// The text, taken.
    #[must_use]
    pub fn into_text(self) -> Text {
        self.0
    }
}

/// A valid topic filter, possibly of a shared subscription.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter {
    whole: Text,
    /// Where the filter proper starts: after `$share/NAME/`, else 0.
    start: u32,
}

impl TopicFilter {
    /// Checks a filter.
    ///
    /// # Errors
    /// [`TopicError`] if it is empty, too long, has U+0000, a misplaced wildcard, or a bad share name.
    pub fn parse(filter: impl Into<Text>) -> Result<TopicFilter, TopicError> {
        let whole = filter.into();
        check_common(&whole)?;
        let start = match whole.strip_prefix("$share/") {
            None => 0,
            Some(rest) => {
                let (share, filter) = rest.split_once('/').ok_or(TopicError::BadShare)?;
                if share.is_empty() || filter.is_empty() || share.contains(['+', '#']) {
                    return Err(TopicError::BadShare);
                }
                "$share/".len() + share.len() + 1
            }
        };
        let filter = whole.get(start..).unwrap_or_default();
        let mut levels = filter.split('/').peekable();
        while let Some(level) = levels.next() {
            if level.contains('#') && (level != "#" || levels.peek().is_some()) {
                return Err(TopicError::MisplacedHash);
            }
            if level.contains('+') && level != "+" {
                return Err(TopicError::MisplacedPlus);
            }
        }
        let start = u32::try_from(start).map_err(|_| TopicError::TooLong)?;
        Ok(TopicFilter { whole, start })
    }

    /// As the client sent it, share prefix included.
    #[must_use]
    pub fn as_text(&self) -> &Text {
        &self.whole
    }

    /// The filter proper, without `$share/NAME/`.
    #[must_use]
    pub fn filter(&self) -> &str {
        self.whole.get(self.start as usize..).unwrap_or_default()
    }

    /// The share name, if this is a shared subscription.
    #[must_use]
    pub fn share(&self) -> Option<&str> {
        let end = (self.start as usize).checked_sub(1)?;
        self.whole.get("$share/".len()..end)
    }

    /// Levels of the filter proper.
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.filter().split('/')
    }

    /// Whether a topic name matches (MQTT 5.0 section 4.7.1). Names that start with `$` are not matched by a filter
    /// that starts with a wildcard [MQTT-4.7.2-1].
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let filter = self.filter();
        if name.starts_with('$') && filter.starts_with(['+', '#']) {
            return false;
        }
        let mut names = name.split('/');
        for level in filter.split('/') {
            if level == "#" {
                // Also the parent level: `sport/#` matches `sport` [MQTT-4.7.1-2, non-normative comment].
                return true;
            }
            match names.next() {
                Some(n) if level == "+" || level == n => {}
                _ => return false,
            }
        }
        names.next().is_none()
    }
}

/// Topics that only the node publishes to: `$SYS`, with its figures, and `$edge`, with what happens to its clients. Servers
/// keep clients from exchanging messages under such names (MQTT 5.0 section 4.7.2).
#[must_use]
pub fn is_nodes_own(topic: &str) -> bool {
    let below =
        |root: &str| topic.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    topic.starts_with('$') && (below("$SYS") || below("$edge"))
}

fn check_common(text: &str) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty);
    }
    if text.len() > MAX_BYTES {
        return Err(TopicError::TooLong);
    }
    if text.contains('\0') {
        return Err(TopicError::Null);
    }
    Ok(())
}

impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl fmt::Debug for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.whole)
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(f: &str) -> TopicFilter {
        TopicFilter::parse(f.to_owned()).unwrap()
    }

    /// MQTT 5.0 section 4.7.1.2 and 4.7.1.3: the standard's own examples.
    #[test]
    fn the_examples_of_the_standard() {
        for (f, name, matches) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("sport/#", "sport", true),
            ("#", "sport/tennis", true),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/uptime", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/uptime", true),
            ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
            ("ACCOUNTS", "Accounts", false),
            ("é/+", "é/ü", true),
        ] {
            assert_eq!(filter(f).matches(name), matches, "{f} on {name}");
        }
    }

    #[test]
    fn misplaced_wildcards_are_refused() {
        for (f, why) in [
            ("", TopicError::Empty),
            ("sport/tennis#", TopicError::MisplacedHash),
            ("sport/tennis/#/ranking", TopicError::MisplacedHash),
            ("sport+", TopicError::MisplacedPlus),
            ("a\0b", TopicError::Null),
            ("$share//a", TopicError::BadShare),
            ("$share/g", TopicError::BadShare),
            ("$share/g/", TopicError::BadShare),
            ("$share/g+/a", TopicError::BadShare),
        ] {
            assert_eq!(TopicFilter::parse(f.to_owned()), Err(why), "{f:?}");
        }
        assert_eq!(TopicName::parse("a/+/b"), Err(TopicError::WildcardInName));
        assert_eq!(TopicName::parse("x".repeat(MAX_BYTES + 1)), Err(TopicError::TooLong));
        assert!(TopicName::parse("x".repeat(MAX_BYTES)).is_ok());
    }

    #[test]
    fn the_nodes_own_topics_are_known() {
        for (topic, own) in [
            ("$SYS/broker/uptime", true),
            ("$SYS", true),
            ("$edge/clients/a/connected", true),
            ("$SYSTEM/x", false),
            ("$edgy", false),
            ("$share/g/x", false),
            ("SYS/x", false),
        ] {
            assert_eq!(is_nodes_own(topic), own, "{topic}");
        }
    }

    #[test]
    fn a_shared_subscription_has_a_name_and_a_filter() {
        let f = filter("$share/workers/jobs/+");
        assert_eq!((f.share(), f.filter()), (Some("workers"), "jobs/+"));
        assert!(f.matches("jobs/1"));
        assert_eq!(filter("jobs/+").share(), None);
    }
}
