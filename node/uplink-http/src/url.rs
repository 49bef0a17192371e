//! `http` and `https` URLs: what a request needs of them, and nothing else.

use std::fmt;
use std::sync::Arc;

/// Longest URL taken.
const MAX_BYTES: usize = 4_096;

/// A checked `http` or `https` URL. `Display` leaves the query out, because a key may be in it (P7).
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    secure: bool,
    /// Without brackets.
    host: Arc<str>,
    port: u16,
    /// Path and query, beginning with `/`.
    target: Arc<str>,
}

/// What is wrong with a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Scheme.
    #[error("must begin with https:// or http://")]
    Scheme,
    /// `user:password@`.
    #[error("must not contain a user name or password, give them under keys of their own")]
    UserInfo,
    /// Host or port.
    #[error("must name a host, and a port between 1 and 65535 if any")]
    Authority,
    /// Anything else.
    #[error("is no URL: only visible ASCII, no fragment, at most 4096 bytes")]
    Malformed,
}

impl Url {
    /// Checks a URL.
    ///
    /// # Errors
    /// [`UrlError`], which completes the sentence "the URL …".
    pub fn parse(text: &str) -> Result<Url, UrlError> {
        let (secure, rest) = split_scheme(text).ok_or(UrlError::Scheme)?;
        let visible = text.bytes().all(|b| matches!(b, 0x21..=0x7e));
        if !visible
            || text.contains(['#', '"', '<', '>', '\\', '^', '`', '{', '|', '}'])
            || text.len() > MAX_BYTES
        {
            return Err(UrlError::Malformed);
        }
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(at);
        if authority.contains('@') {
            return Err(UrlError::UserInfo);
        }
        let (host, port) = split_authority(authority, if secure { 443 } else { 80 })?;
        let target = match target {
            "" => "/".to_owned(),
            query if query.starts_with('?') => format!("/{query}"),
            path => path.to_owned(),
        };
        Ok(Url { secure, host: host.to_ascii_lowercase().into(), port, target: target.into() })
    }

    /// Where a `Location` leads, seen from here (RFC 3986 section 5.2, without dot segments).
    pub(crate) fn join(&self, location: &str) -> Result<Url, UrlError> {
        let location = location.split('#').next().unwrap_or_default();
        if split_scheme(location).is_some() {
            return Url::parse(location);
        }
        // RFC 3986 section 4.2: a colon before the first `/` or `?` ends a scheme, and it is none of ours.
        if location.split(['/', '?']).next().is_some_and(|first| first.contains(':')) {
            return Err(UrlError::Scheme);
        }
        let scheme = if self.secure { "https" } else { "http" };
        if location.starts_with("//") {
            return Url::parse(&format!("{scheme}:{location}"));
        }
        let path = self.target.split('?').next().unwrap_or("/");
        let target = match location {
            "" => path.to_owned(),
            rooted if rooted.starts_with('/') => rooted.to_owned(),
            query if query.starts_with('?') => format!("{path}{query}"),
            relative => match path.rfind('/') {
                Some(at) => format!("{}{relative}", path.get(..=at).unwrap_or("/")),
                None => format!("/{relative}"),
            },
        };
        Url::parse(&format!("{scheme}://{}{target}", self.authority()))
    }

    /// Whether it is `https`.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// Host name or address, IPv6 without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path and query: the request target (RFC 9112 section 3.2.1).
    pub(crate) fn target(&self) -> &str {
        &self.target
    }

    /// What the Host header says; always with a port, unless it is the scheme's own.
    pub(crate) fn authority(&self) -> String {
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        let default = if self.secure { 443 } else { 80 };
        if self.port == default {
            format!("{open}{}{close}", self.host)
        } else {
            format!("{open}{}{close}:{}", self.host, self.port)
        }
    }

    /// Whether a connection to one serves the other.
    pub(crate) fn same_origin(&self, other: &Url) -> bool {
        self.secure == other.secure && self.port == other.port && self.host == other.host
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.target.split('?').next().unwrap_or("/");
        write!(f, "{}://{}{path}", if self.secure { "https" } else { "http" }, self.authority())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

fn split_scheme(text: &str) -> Option<(bool, &str)> {
    let scheme = |name: &str| text.get(..name.len()).filter(|head| head.eq_ignore_ascii_case(name));
    if let Some(head) = scheme("https://") {
        return Some((true, text.get(head.len()..)?));
    }
    scheme("http://").and_then(|head| Some((false, text.get(head.len()..)?)))
}

fn split_authority(authority: &str, default: u16) -> Result<(&str, u16), UrlError> {
    let (host, rest) = match authority.strip_prefix('[') {
        Some(inner) => {
            let (host, rest) = inner.split_once(']').ok_or(UrlError::Authority)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| UrlError::Authority)?;
            (host, rest)
        }
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port = match rest.strip_prefix(':') {
        Some(port) => port.parse().ok().filter(|p| *p != 0).ok_or(UrlError::Authority)?,
        None if rest.is_empty() => default,
        None => return Err(UrlError::Authority),
    };
    let plausible = |b: u8| b.is_ascii_alphanumeric() || b"-._~:".contains(&b);
    if host.is_empty() || !host.bytes().all(plausible) {
        return Err(UrlError::Authority);
    }
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn urls_are_taken_apart() {
        for (text, authority, target, shown) in [
            ("https://a.example", "a.example", "/", "https://a.example/"),
            ("https://A.example:443/x?k=1", "a.example", "/x?k=1", "https://a.example/x"),
            ("http://10.0.0.1:8080?k", "10.0.0.1:8080", "/?k", "http://10.0.0.1:8080/"),
            ("HTTP://[::1]:80/p/q", "[::1]", "/p/q", "http://[::1]/p/q"),
        ] {
            let url = url(text);
            assert_eq!((url.authority().as_str(), url.target()), (authority, target), "{text}");
            assert_eq!(url.to_string(), shown, "the query is never shown");
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        for (text, error) in [
            ("ftp://a/", UrlError::Scheme),
            ("a.example/x", UrlError::Scheme),
            ("https://u:p@a/", UrlError::UserInfo),
            ("https:///x", UrlError::Authority),
            ("https://a:0/", UrlError::Authority),
            ("https://a:70000/", UrlError::Authority),
            ("https://[::1/", UrlError::Authority),
            ("https://a b/", UrlError::Malformed),
            ("https://a/#f", UrlError::Malformed),
            ("https://a/é", UrlError::Malformed),
        ] {
            assert_eq!(Url::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn locations_are_seen_from_where_they_were_found() {
        let base = url("https://a.example/in/events?key=1");
        for (location, full) in [
            ("/other", "https://a.example/other"),
            ("v2/events", "https://a.example/in/v2/events"),
            ("//b.example/x", "https://b.example/x"),
            ("http://a.example/x", "http://a.example/x"),
            ("?key=2", "https://a.example/in/events?key=2"),
            ("/x#top", "https://a.example/x"),
        ] {
            assert_eq!(base.join(location), Ok(url(full)), "{location}");
        }
        assert!(!base.same_origin(&url("http://a.example/")), "another scheme is another origin");
        assert!(base.same_origin(&url("https://a.example:443/y")));
    }

    proptest! {
        #[test]
        fn nothing_panics_and_what_is_shown_is_a_url(text in "(https?://)?[ -~]{0,40}", location in "[ -~]{0,20}") {
            if let Ok(url) = Url::parse(&text) {
                prop_assert!(Url::parse(&url.to_string()).is_ok(), "{}", url);
                drop(url.join(&location));
            }
        }
    }
}
