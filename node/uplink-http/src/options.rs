//! What an uplink is made with; checked once, in [`Options::check`].

use crate::url::Url;
use eventmesh_edge_uplink_net::{CertificateTime, Secret, TlsOptions};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// Here.
    Inline(Secret),
    /// First line of a file, reread every half minute and when the receiver refuses what was read.
    File(PathBuf),
}

/// What is shown to the receiver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    /// Nothing.
    #[default]
    None,
    /// `Authorization: Bearer` (RFC 6750).
    Bearer(SecretSource),
    /// `Authorization: Basic` (RFC 7617).
    Basic {
        /// User name, without a colon.
        username: String,
        /// Password.
        password: SecretSource,
    },
    /// A token by the client credentials grant (RFC 6749 section 4.4).
    OAuth2(OAuth2),
}

/// Where and how a token is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OAuth2 {
    /// The token endpoint.
    pub token_url: Url,
    /// Client identifier.
    pub client_id: String,
    /// Client secret.
    pub client_secret: SecretSource,
    /// Scopes, separated by spaces.
    pub scope: Option<String>,
    /// `audience`, which some servers want.
    pub audience: Option<String>,
    /// How the client shows who it is.
    pub style: ClientAuth,
}

/// How a client authenticates at the token endpoint (RFC 6749 section 2.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// `Authorization: Basic`, which every server must support.
    #[default]
    Basic,
    /// In the form.
    Form,
}

/// CloudEvents content mode (HTTP binding 1.0 section 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// One event per request: data as body, attributes as `ce-` headers.
    #[default]
    Binary,
    /// One event per request: one JSON document.
    Structured,
    /// Many events per request: a JSON array of them.
    Batch,
}

/// An uplink's options.
#[derive(Clone)]
pub struct Options {
    /// Tried in turn by the forwarder, the first one preferred; at least one.
    pub urls: Vec<Url>,
    /// TLS for `https` URLs.
    pub tls: TlsOptions,
    /// Credentials.
    pub auth: Auth,
    /// Credentials may travel over `http`.
    pub cleartext_credentials: bool,
    /// Content mode.
    pub mode: Mode,
    /// Most events of one batch.
    pub batch_events: usize,
    /// Most bytes of one batch before compression; one event alone may exceed it.
    pub batch_bytes: usize,
    /// Request bodies go out compressed.
    pub gzip: bool,
    /// Requests at a time, each on a connection of its own. With one, events are taken over in the order sent.
    pub connections: usize,
    /// Redirects followed per request; 0 refuses them.
    pub redirects_max: u8,
    /// Longest DNS lookup, TCP connect and TLS handshake together, for connections made while up.
    pub connect_timeout: Duration,
    /// Longest wait for the head of an answer, and again for its body.
    pub answer_timeout: Duration,
    /// A request without an answer for so long makes the uplink ask on a second connection whether anybody is there; no
    /// answer within the same time again, and the link is dead. Zero switches that off.
    pub probe_interval: Duration,
    /// On another address than the first: the first one is tried this often, and gone back to when it answers. Zero
    /// never.
    pub return_interval: Duration,
    /// Checks certificates; the machine's clock if `None`.
    pub certificate_time: Option<CertificateTime>,
}

impl Options {
    /// Defaults: binary mode, batches of 100 events or 256 KiB, one connection, no credentials, no redirects.
    #[must_use]
    pub fn new(urls: Vec<Url>) -> Options {
        Options {
            urls,
            tls: TlsOptions::default(),
            auth: Auth::None,
            cleartext_credentials: false,
            mode: Mode::Binary,
            batch_events: 100,
            batch_bytes: 256 * 1_024,
            gzip: false,
            connections: 1,
            redirects_max: 0,
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(30),
            probe_interval: Duration::from_secs(15),
            return_interval: Duration::from_secs(60),
            certificate_time: None,
        }
    }

    /// Checks what the types do not say.
    ///
    /// # Errors
    /// The first [`OptionsError`] found.
    pub fn check(&self) -> Result<(), OptionsError> {
        if self.urls.is_empty() {
            return Err(OptionsError::NoUrl);
        }
        if self.batch_events == 0 || self.batch_bytes == 0 || self.connections == 0 {
            return Err(OptionsError::Limit);
        }
        if self.connect_timeout.is_zero() || self.answer_timeout.is_zero() {
            return Err(OptionsError::Timeout);
        }
        self.check_auth()
    }

    fn check_auth(&self) -> Result<(), OptionsError> {
        if let Auth::Basic { username, .. } = &self.auth
            && username.contains(':')
        {
            return Err(OptionsError::Username);
        }
        if self.auth == Auth::None || self.cleartext_credentials {
            return Ok(());
        }
        let token_url = match &self.auth {
            Auth::OAuth2(oauth) => Some(&oauth.token_url),
            _ => None,
        };
        match self.urls.iter().chain(token_url).find(|url| !url.is_secure()) {
            Some(url) => Err(OptionsError::Cleartext(url.to_string())),
            None => Ok(()),
        }
    }

    /// Events that may be unanswered: what is under way on every connection, and as much again to go next, so that no
    /// connection waits for the forwarder.
    pub(crate) fn window(&self) -> usize {
        let per_request = if self.mode == Mode::Batch { self.batch_events } else { 1 };
        per_request.saturating_mul(self.connections).saturating_mul(2).max(8)
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("urls", &self.urls).field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// What is wrong with an uplink's options.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// No address.
    #[error("urls is empty, give at least one")]
    NoUrl,
    /// A bound that lets nothing through.
    #[error("batch_events, batch_bytes and connections must be at least 1")]
    Limit,
    /// No time at all.
    #[error("connect_timeout and answer_timeout must not be zero")]
    Timeout,
    /// RFC 7617 section 2.
    #[error("username must not contain a colon")]
    Username,
    /// Credentials in clear.
    #[error(
        "{0} is not https, credentials would travel in clear: use https or allow it with cleartext_credentials"
    )]
    Cleartext(String),
}
