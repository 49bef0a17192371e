//! `[[uplink]]` with `kind = "http"`: its own keys, beside those that every uplink has.

use crate::model::{Credentials, Mode, Order, Password, UplinkKind};
use crate::read::Section;
use crate::sections::{RawUplink, timing, uplink_tls};
use crate::setting::{Secret, Setting, quote, words};
use crate::units::ByteSize;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use toml::de::DeValue;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

/// An `http` or `https` URL as it was written. `Display` leaves the query out: a key may be in it (P7).
#[derive(Clone, PartialEq, Eq)]
pub struct HttpUrl(String);

impl HttpUrl {
    fn parse(text: &str) -> Result<HttpUrl, String> {
        let bad = || "must be a URL such as \"https://in.example.com/events\"".to_owned();
        let (scheme, rest) = text.split_once("://").ok_or_else(bad)?;
        let known = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err("must not contain a user name or password: see auth".to_owned());
        }
        let plain =
            text.bytes().all(|b| matches!(b, 0x21..=0x7e)) && !text.contains(['#', '"', '<', '>', '\\']);
        if !known || authority.is_empty() || !plain {
            return Err(bad());
        }
        Ok(HttpUrl(text.to_owned()))
    }

    /// The whole of it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it is `https`.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.0.get(..6).is_some_and(|head| head.eq_ignore_ascii_case("https:"))
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.split('?').next().unwrap_or_default())
    }
}

impl fmt::Debug for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl Setting for HttpUrl {
    fn example() -> String {
        "\"https://in.example.com/events\"".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<HttpUrl, String> {
        HttpUrl::parse(value.as_str().ok_or_else(|| "must be text in double quotes".to_owned())?)
    }

    fn show(&self) -> String {
        quote(&self.0)
    }
}

words! {
    /// CloudEvents content mode over HTTP (HTTP binding 1.0 section 3).
    pub enum HttpMode {
        /// One event per request, attributes as headers, data as body.
        Binary = "binary",
        /// One event per request, one JSON document.
        Structured = "structured",
        /// Many events per request.
        Batch = "batch",
    }
    later: []
}

words! {
    /// The words behind [`HttpAuth`].
    pub enum HttpAuthKind {
        /// Nothing is shown.
        None = "none",
        /// A bearer token.
        Bearer = "bearer",
        /// User name and password.
        Basic = "basic",
        /// A token by the client credentials grant.
        OAuth2 = "oauth2",
    }
    later: []
}

words! {
    /// How a client shows who it is at a token endpoint (RFC 6749 section 2.3.1).
    pub enum OAuthClientAuth {
        /// HTTP Basic.
        Basic = "basic",
        /// In the form.
        Form = "form",
    }
    later: []
}

/// What is shown to an HTTP receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpAuth {
    /// Nothing.
    None,
    /// `Authorization: Bearer`.
    Bearer(Password),
    /// `Authorization: Basic`.
    Basic {
        /// User name.
        username: String,
        /// Password.
        password: Password,
    },
    /// A fetched token.
    OAuth2(OAuth2),
}

/// `[uplink.oauth2]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OAuth2 {
    /// The token endpoint.
    pub token_url: HttpUrl,
    /// Client identifier.
    pub client_id: String,
    /// Client secret.
    pub client_secret: Password,
    /// Scopes, separated by spaces.
    pub scope: Option<String>,
    /// What the token is for, where the server wants to know.
    pub audience: Option<String>,
    /// How the secret is shown.
    pub client_auth: OAuthClientAuth,
}

/// What only an uplink over HTTP has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// Tried in turn, the first one preferred; never empty.
    pub urls: Vec<HttpUrl>,
    /// Content mode.
    pub mode: HttpMode,
    /// Most events of one batch.
    pub batch_events: u32,
    /// Most bytes of one batch.
    pub batch_bytes: ByteSize,
    /// Compressed bodies.
    pub gzip: bool,
    /// Requests at a time.
    pub connections: u32,
    /// Redirects followed per request.
    pub redirects_max: u32,
    /// How long a request may be unanswered before the receiver is asked whether it is there.
    pub probe_interval: Duration,
    /// How often the first URL is tried while another one is used.
    pub return_interval: Duration,
    /// Credentials.
    pub auth: HttpAuth,
    /// They may travel over `http`.
    pub cleartext_credentials: bool,
}

impl crate::model::Uplink {
    /// Address number `index`, as it may be shown.
    #[must_use]
    pub fn address(&self, index: usize) -> Option<String> {
        match &self.http {
            Some(http) => http.urls.get(index).map(ToString::to_string),
            None => self.addresses.get(index).map(ToString::to_string),
        }
    }
}

/// Reads the section; `kind` was read already.
pub(crate) fn uplink(s: &mut Section<'_, '_>) -> RawUplink {
    let http = http(s);
    RawUplink {
        name: s.required("name"),
        kind: UplinkKind::Http,
        tls: s.optional_table("tls", uplink_tls),
        order: s.value("order", Order::Strict),
        window_events: s.bounded("window_events", 1_024, 1..=65_535),
        window_bytes: s.bounded(
            "window_bytes",
            ByteSize::from_mib(1),
            ByteSize::from_kib(1)..=ByteSize::from_gib(1),
        ),
        timing: timing(s, 30 * SECOND),
        http: Some(http),
        eventmesh: None,
        keep_alive: Duration::ZERO,
        session_expiry: Duration::ZERO,
        addresses: Vec::new(),
        credentials: None,
        client_id: None,
        mode: Mode::Binary,
        topic: String::new(),
        subscribe: Vec::new(),
        subscribe_strip: String::new(),
        subscribe_prefix: String::new(),
    }
}

fn http(s: &mut Section<'_, '_>) -> Http {
    let urls = s.required::<Vec<HttpUrl>>("urls");
    if urls.as_ref().is_some_and(Vec::is_empty) {
        s.problem("urls", "is empty, name at least one");
    }
    let http = Http {
        urls: urls.unwrap_or_default(),
        mode: s.value("mode", HttpMode::Binary),
        batch_events: s.bounded("batch_events", 100, 1..=10_000),
        batch_bytes: s.bounded(
            "batch_bytes",
            ByteSize::from_kib(256),
            ByteSize::from_kib(1)..=ByteSize::from_mib(64),
        ),
        gzip: s.value("gzip", false),
        connections: s.bounded("connections", 1, 1..=64),
        redirects_max: s.bounded("redirects_max", 0, 0..=10),
        probe_interval: s.bounded("probe_interval", 15 * SECOND, Duration::ZERO..=HOUR),
        return_interval: s.bounded("return_interval", 60 * SECOND, Duration::ZERO..=24 * HOUR),
        auth: auth(s),
        cleartext_credentials: s.value("cleartext_credentials", false),
    };
    cleartext(s, &http);
    http
}

/// A credential in clear is for the reader of every network in between, and so a decision of the operator's.
fn cleartext(s: &mut Section<'_, '_>, http: &Http) {
    let token_url = match &http.auth {
        HttpAuth::OAuth2(oauth2) => Some(&oauth2.token_url),
        _ => None,
    };
    let clear = http.urls.iter().chain(token_url).find(|url| !url.is_secure());
    if let (Some(url), false, false) = (clear, http.auth == HttpAuth::None, http.cleartext_credentials) {
        let what = format!("must be true to send credentials in clear text to {url}, better use https");
        s.problem("cleartext_credentials", what);
    }
}

fn auth(s: &mut Section<'_, '_>) -> HttpAuth {
    let kind = s.value("auth", HttpAuthKind::None);
    let token = secret(s, "token", "token_file");
    let basic = crate::sections::credentials(s);
    let oauth2 = s.optional_table("oauth2", oauth2);
    let given = [("token", token.is_some()), ("username", basic.is_some()), ("oauth2", oauth2.is_some())];
    let wanted = match kind {
        HttpAuthKind::None => "",
        HttpAuthKind::Bearer => "token",
        HttpAuthKind::Basic => "username",
        HttpAuthKind::OAuth2 => "oauth2",
    };
    for (key, _) in given.iter().filter(|(key, given)| *given && *key != wanted) {
        s.problem(key, format!("would not be used with auth = {}", quote(kind.as_str())));
    }
    match (kind, token, basic, oauth2) {
        (HttpAuthKind::Bearer, Some(token), _, _) => HttpAuth::Bearer(token),
        (HttpAuthKind::Basic, _, Some(Credentials { username, password: Some(password) }), _) => {
            HttpAuth::Basic { username, password }
        }
        (HttpAuthKind::OAuth2, _, _, Some(Some(oauth2))) => HttpAuth::OAuth2(oauth2),
        (HttpAuthKind::None, ..) => HttpAuth::None,
        (HttpAuthKind::OAuth2, _, _, Some(None)) => HttpAuth::None,
        (HttpAuthKind::Basic, _, Some(_), _) => {
            s.problem("password", "missing, or password_file");
            HttpAuth::None
        }
        _ => {
            s.problem(wanted, format!("missing, auth = {} needs it", quote(kind.as_str())));
            HttpAuth::None
        }
    }
}

fn oauth2(s: &mut Section<'_, '_>) -> Option<OAuth2> {
    let token_url = s.required("token_url");
    let client_id = s.required("client_id");
    let client_secret = secret(s, "client_secret", "client_secret_file");
    if client_secret.is_none() {
        s.problem("client_secret_file", "missing, or client_secret");
    }
    let (scope, audience) = (s.optional("scope"), s.optional("audience"));
    let client_auth = s.optional("client_auth").unwrap_or(OAuthClientAuth::Basic);
    Some(OAuth2 {
        token_url: token_url?,
        client_id: client_id?,
        client_secret: client_secret?,
        scope,
        audience,
        client_auth,
    })
}

fn secret(s: &mut Section<'_, '_>, inline: &'static str, file: &'static str) -> Option<Password> {
    let text = s.optional::<Secret>(inline);
    let path = s.optional::<PathBuf>(file);
    if text.is_some() && path.is_some() {
        s.problem(file, format!("is given beside {inline}, write one of them"));
    }
    text.map(Password::Inline).or(path.map(Password::File))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Overrides};
    use std::collections::BTreeMap;

    fn parse(keys: &str) -> Result<Config, Vec<String>> {
        let text = format!("[[uplink]]\nname = \"cloud\"\nkind = \"http\"\n{keys}");
        let parsed = Config::parse(&text, "f", &BTreeMap::new(), &Overrides::default());
        parsed.map_err(|problems| problems.to_string().lines().map(str::to_owned).collect())
    }

    fn http(keys: &str) -> Http {
        parse(keys).unwrap().uplinks.into_iter().next().unwrap().http.unwrap()
    }

    fn problem(keys: &str) -> String {
        parse(keys).unwrap_err().join("\n")
    }

    #[test]
    fn urls_are_enough() {
        let http = http("urls = [\"https://a.example/in?key=hunter2\", \"https://b.example/in\"]");
        assert_eq!((http.mode, http.auth, http.connections), (HttpMode::Binary, HttpAuth::None, 1));
        assert_eq!(http.urls[0].to_string(), "https://a.example/in");
        assert!(!format!("{:?}", http.urls).contains("hunter2"), "P7");
        assert!(http.urls[0].is_secure());
    }

    #[test]
    fn what_is_no_url_is_told() {
        for bad in ["a.example", "mqtt://a/", "https://", "https://a b/", "https://a/#x"] {
            assert!(problem(&format!("urls = [\"{bad}\"]")).contains("must be a URL"), "{bad}");
        }
        assert!(problem("urls = [\"https://u:hunter2@a/\"]").contains("see auth"));
        assert!(problem("urls = []").contains("at least one"));
        assert!(problem("").contains("urls: missing"));
    }

    #[test]
    fn keys_of_other_kinds_are_unknown_here() {
        let keys = "urls = [\"https://a/\"]\nclient_id = \"x\"\nsubscribe = [\"a\"]\naddresses = [\"b:1\"]\n";
        assert_eq!(problem(keys).matches("unknown key").count(), 3, "{}", problem(keys));
    }

    #[test]
    fn credentials_are_whole_and_used() {
        let url = "urls = [\"https://a/\"]\n";
        assert!(matches!(http(&format!("{url}auth = \"bearer\"\ntoken = \"t\"")).auth, HttpAuth::Bearer(_)));
        assert!(problem(&format!("{url}auth = \"bearer\"")).contains("token: missing"));
        assert!(problem(&format!("{url}token = \"t\"")).contains("would not be used"));
        assert!(
            problem(&format!("{url}auth = \"bearer\"\ntoken = \"t\"\ntoken_file = \"f\""))
                .contains("one of them")
        );
        let basic = format!("{url}auth = \"basic\"\nusername = \"u\"\n");
        assert!(problem(&basic).contains("password: missing"));
        assert!(matches!(http(&format!("{basic}password_file = \"p\"")).auth, HttpAuth::Basic { .. }));
        let oauth =
            format!("{url}auth = \"oauth2\"\noauth2 = {{ token_url = \"https://id/\", client_id = \"c\" }}");
        assert!(problem(&oauth).contains("client_secret_file: missing"));
        let oauth = oauth.replace(" }", ", client_secret_file = \"s\" }");
        assert!(matches!(http(&oauth).auth, HttpAuth::OAuth2(_)));
    }

    #[test]
    fn credentials_in_clear_are_a_decision() {
        let clear = "urls = [\"http://a/\"]\nauth = \"bearer\"\ntoken = \"hunter2\"\n";
        let problem = problem(clear);
        assert!(problem.contains("in clear text to http://a/") && !problem.contains("hunter2"), "{problem}");
        assert!(http(&format!("{clear}cleartext_credentials = true")).cleartext_credentials);
        http("urls = [\"http://a/\"]");
    }

    #[test]
    fn the_forwarder_waits_longer_than_the_adapter() {
        use eventmesh_edge_core::forward::Pipeline;
        use eventmesh_edge_core::ports::store::UplinkId;
        let rules = |keys: &str| {
            parse(&format!("urls = [\"https://a/\"]\n{keys}")).unwrap().uplinks[0]
                .forward_options(UplinkId(0), 1)
        };
        assert_eq!(rules("answer_timeout = \"10 s\"").answer_timeout, 30 * SECOND);
        assert_eq!(rules("").pipeline, Pipeline::Ordered);
        assert_eq!(rules("connections = 4").pipeline, Pipeline::Unordered);
    }
}
