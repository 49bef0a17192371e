//! The types a key can have: how each is read from the file, what its message says, and how it is written back.

use crate::units::{ByteSize, parse_size, parse_time, show_time};
use eventmesh_edge_core::topic::TopicFilter;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use toml::de::DeValue;

/// A value that can stand behind a key.
pub(crate) trait Setting: Sized {
    /// Its value never appears in a message (P7).
    const SECRET: bool = false;
    /// What to write where it is missing.
    fn example() -> String;

    /// Reads it; the error completes the sentence "`key = value`: …".
    fn read(value: &DeValue<'_>) -> Result<Self, String>;

    /// As it would be written in the file.
    fn show(&self) -> String;
}

/// Text that must not be seen: `Debug` shows that there is one, and no more (P7).
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Host and port of an upstream; names are resolved at each connect, not here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Name or address, without brackets.
    pub host: String,
    /// The port, if one was written.
    pub port: Option<u16>,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{open}{}{close}", self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl Endpoint {
    fn parse(text: &str) -> Result<Endpoint, String> {
        let bad =
            || "must be host:port, as in \"broker.example.com:1883\" or \"[2001:db8::1]:1883\"".to_owned();
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(bad)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
                (host, (!port.is_empty()).then(|| port.strip_prefix(':').ok_or_else(bad)).transpose()?)
            }
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let plausible = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || !host.chars().all(plausible) {
            return Err(bad());
        }
        let port =
            port.map(|port| port.parse::<u16>().ok().filter(|p| *p != 0).ok_or_else(bad)).transpose()?;
        Ok(Endpoint { host: host.to_owned(), port })
    }
}

/// Name of the node, a stream or an uplink: 1 to 64 of `A-Z a-z 0-9 . _ -`, so that it can stand in a URI, a file name
/// and a metric label as it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// Checks a name.
    ///
    /// # Errors
    /// What a name must look like.
    pub fn parse(text: &str) -> Result<Name, String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if (1..=64).contains(&text.len()) && text.chars().all(allowed) {
            return Ok(Name(text.to_owned()));
        }
        Err("must have 1 to 64 characters out of A-Z a-z 0-9 . _ -".to_owned())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Text in double quotes, escaped as TOML wants it.
pub(crate) fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn text<'v>(value: &'v DeValue<'_>) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| "must be text in double quotes".to_owned())
}

fn integer(value: &DeValue<'_>) -> Option<u64> {
    let integer = value.as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

impl Setting for String {
    fn example() -> String {
        "\"…\"".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<String, String> {
        text(value).map(str::to_owned)
    }

    fn show(&self) -> String {
        quote(self)
    }
}

impl Setting for Secret {
    const SECRET: bool = true;
    fn example() -> String {
        "\"…\"".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<Secret, String> {
        text(value).map(Secret::new)
    }

    fn show(&self) -> String {
        "\"…\"".to_owned()
    }
}

impl Setting for bool {
    fn example() -> String {
        "true".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<bool, String> {
        value.as_bool().ok_or_else(|| "must be true or false, without quotes".to_owned())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for u32 {
    fn example() -> String {
        "100".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<u32, String> {
        let number = integer(value).and_then(|n| u32::try_from(n).ok());
        number.ok_or_else(|| "must be a whole number, without quotes".to_owned())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for ByteSize {
    fn example() -> String {
        "\"64 MiB\"".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<ByteSize, String> {
        let bare = integer(value).map(|n| n.to_string());
        let text = value
            .as_str()
            .or(bare.as_deref())
            .ok_or_else(|| "must be a size such as \"64 MiB\"".to_owned())?;
        parse_size(text).map_err(|error| error.to_string())
    }

    fn show(&self) -> String {
        quote(&self.to_string())
    }
}

impl Setting for Duration {
    fn example() -> String {
        "\"10 s\"".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<Duration, String> {
        let bare = integer(value).map(|n| n.to_string());
        let text =
            value.as_str().or(bare.as_deref()).ok_or_else(|| "must be a time such as \"10 s\"".to_owned())?;
        parse_time(text).map_err(|error| error.to_string())
    }

    fn show(&self) -> String {
        quote(&show_time(*self))
    }
}

impl Setting for SocketAddr {
    fn example() -> String {
        "\"127.0.0.1:1883\"".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<SocketAddr, String> {
        let parsed = text(value)?.parse();
        parsed.map_err(|_| {
            "must be an address and a port, as in \"127.0.0.1:1883\" or \"[::]:1883\"".to_owned()
        })
    }

    fn show(&self) -> String {
        quote(&self.to_string())
    }
}

impl Setting for PathBuf {
    fn example() -> String {
        "\"/etc/eventmesh-edge/…\"".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<PathBuf, String> {
        match text(value)? {
            "" => Err("must be a path".to_owned()),
            path => Ok(PathBuf::from(path)),
        }
    }

    fn show(&self) -> String {
        quote(&self.to_string_lossy())
    }
}

impl Setting for Endpoint {
    fn example() -> String {
        "\"broker.example.com:1883\"".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<Endpoint, String> {
        Endpoint::parse(text(value)?)
    }

    fn show(&self) -> String {
        quote(&self.to_string())
    }
}

impl Setting for Name {
    fn example() -> String {
        "\"cloud\"".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<Name, String> {
        Name::parse(text(value)?)
    }

    fn show(&self) -> String {
        quote(&self.0)
    }
}

impl Setting for TopicFilter {
    fn example() -> String {
        "\"plant/+/temp\"".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<TopicFilter, String> {
        let filter = TopicFilter::parse(text(value)?.to_owned()).map_err(|error| error.to_string())?;
        match filter.share() {
            Some(_) => Err("a shared subscription has no meaning here, write the filter alone".to_owned()),
            None => Ok(filter),
        }
    }

    fn show(&self) -> String {
        quote(self.as_text())
    }
}

impl<T: Setting> Setting for Vec<T> {
    fn example() -> String {
        format!("[{}]", T::example())
    }

    fn read(value: &DeValue<'_>) -> Result<Vec<T>, String> {
        let list = value.as_array().ok_or_else(|| format!("must be a list, as in [{}]", T::example()))?;
        let one = |(index, item): (usize, &toml::Spanned<DeValue<'_>>)| {
            T::read(item.get_ref()).map_err(|what| format!("item {index}: {what}"))
        };
        list.iter().enumerate().map(one).collect()
    }

    fn show(&self) -> String {
        format!("[{}]", self.iter().map(Setting::show).collect::<Vec<_>>().join(", "))
    }
}

/// An enum whose values are written as words; words of later issues get an answer of their own.
macro_rules! words {
    (
        $(#[$doc:meta])* pub enum $name:ident {
            $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+
        }
        later: [$($later:literal),*]
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// As written in the file.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word,)+ }
            }
        }

        impl $crate::setting::Setting for $name {
            fn example() -> String {
                [$($word),+].first().copied().map($crate::setting::quote).unwrap_or_default()
            }

            fn read(value: &toml::de::DeValue<'_>) -> Result<$name, String> {
                let words = [$($word),+].map($crate::setting::quote).join(" or ");
                let later: &[&str] = &[$($later),*];
                match value.as_str() {
                    $(Some($word) => Ok($name::$variant),)+
                    Some(word) if later.contains(&word) => Err(format!("is not built yet, use {words}")),
                    _ => Err(format!("must be {words}")),
                }
            }

            fn show(&self) -> String {
                $crate::setting::quote(self.as_str())
            }
        }
    };
}
pub(crate) use words;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        for (text, host, port) in [
            ("broker:1883", "broker", Some(1883)),
            ("broker.example.com", "broker.example.com", None),
            ("10.0.0.1:8883", "10.0.0.1", Some(8883)),
            ("[::1]:1883", "::1", Some(1883)),
            ("[2001:db8::1]", "2001:db8::1", None),
        ] {
            let endpoint = Endpoint::parse(text).unwrap();
            assert_eq!((endpoint.host.as_str(), endpoint.port), (host, port), "{text}");
            assert_eq!(endpoint.to_string(), text);
        }
        for text in
            ["", ":1883", "a:b", "a:0", "a:70000", "mqtt://a:1883", "[::1", "[::1]1883", "::1", "a b:1"]
        {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        let secret = Secret::new("hunter2");
        assert!(!format!("{secret:?} {}", secret.show()).contains("hunter2"));
        assert_eq!(secret.expose(), "hunter2");
    }
}
