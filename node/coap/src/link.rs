//! CoRE Link Format (RFC 6690): what a node offers, and the filters of its section 4.1.

use std::fmt::Write as _;

/// Content-Format of a link list.
pub const CONTENT_FORMAT: u16 = 40;

/// One resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link<'a> {
    /// Absolute path.
    pub target: &'a str,
    /// Attributes with their values; "" for one that has none.
    pub attributes: &'a [(&'a str, &'a str)],
}

/// Link attributes that hold several values, separated by spaces (section 4.1).
const LISTS: [&str; 4] = ["rt", "if", "rel", "ct"];

/// Writes the links that pass all filters. A filter is a query argument `name=value`; a value that ends with `*` matches
/// a prefix. `href` is compared with the target.
#[must_use]
pub fn write(links: &[Link<'_>], filters: &[String]) -> String {
    let mut text = String::new();
    for link in links.iter().filter(|link| filters.iter().all(|filter| link.passes(filter))) {
        if !text.is_empty() {
            text.push(',');
        }
        link.append(&mut text);
    }
    text
}

impl Link<'_> {
    fn append(&self, text: &mut String) {
        // Writing to a String cannot fail.
        write!(text, "<{}>", self.target).unwrap_or_default();
        for (name, value) in self.attributes {
            match *value {
                "" => write!(text, ";{name}"),
                // Numbers need no quotes: `ct=40`, `sz=1280`.
                value if value.bytes().all(|byte| byte.is_ascii_digit()) => write!(text, ";{name}={value}"),
                value => write!(text, ";{name}=\"{value}\""),
            }
            .unwrap_or_default();
        }
    }

    fn passes(&self, filter: &str) -> bool {
        let (name, wanted) = filter.split_once('=').unwrap_or((filter, "*"));
        if name == "href" {
            return matches(self.target, wanted);
        }
        self.attributes.iter().filter(|(attribute, _)| *attribute == name).any(|(_, value)| {
            if LISTS.contains(&name) {
                value.split(' ').any(|one| matches(one, wanted)) || matches(value, wanted)
            } else {
                matches(value, wanted)
            }
        })
    }
}

fn matches(value: &str, wanted: &str) -> bool {
    match wanted.strip_suffix('*') {
        Some(prefix) => value.starts_with(prefix),
        None => value == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6690 section 5.
    const LINKS: &[Link<'static>] = &[
        Link { target: "/sensors", attributes: &[("ct", "40"), ("title", "Sensor Index")] },
        Link { target: "/sensors/temp", attributes: &[("rt", "temperature-c"), ("if", "sensor")] },
        Link {
            target: "/sensors/light",
            attributes: &[("rt", "light-lux core.sen-light"), ("if", "sensor")],
        },
        Link { target: "/firmware/v2.1", attributes: &[("rt", "firmware"), ("sz", "262144"), ("obs", "")] },
    ];

    fn filtered(filters: &[&str]) -> String {
        write(LINKS, &filters.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn links_as_in_the_standard() {
        let all = filtered(&[]);
        assert!(all.starts_with("</sensors>;ct=40;title=\"Sensor Index\",</sensors/temp>"), "{all}");
        assert!(all.ends_with("</firmware/v2.1>;rt=\"firmware\";sz=262144;obs"), "{all}");
    }

    #[test]
    fn filters_as_in_the_standard() {
        assert_eq!(filtered(&["rt=light-lux"]).matches('<').count(), 1);
        assert_eq!(filtered(&["rt=core.sen-light"]).matches('<').count(), 1, "any of several values");
        assert_eq!(filtered(&["href=/sensors*"]).matches('<').count(), 3);
        assert_eq!(filtered(&["href=/sensors"]).matches('<').count(), 1);
        assert_eq!(filtered(&["if=sensor", "rt=temp*"]).matches('<').count(), 1);
        assert_eq!(filtered(&["obs"]).matches('<').count(), 1, "the attribute is there");
        assert_eq!(filtered(&["rt=none"]), "");
        assert_eq!(filtered(&["nonsense=1"]), "");
    }
}
