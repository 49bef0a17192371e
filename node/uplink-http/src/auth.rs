//! What is shown to the receiver, where it comes from, and when it is renewed.
//!
//! The decisions are in [`Wallet`], without I/O: a credential has a number, requests carry the number of theirs, and a
//! refusal (401, 403) is judged by it. A refused credential is renewed once; if the new one is refused too, or there is no
//! new one, the upstream is not available, with the reason in words. It is never an event's fault.

use crate::counters::count;
use crate::dial::{Dialer, Peer};
use crate::exchange::{Shared, finish, head};
use crate::judge::in_words;
use crate::options::{Auth, ClientAuth, OAuth2, SecretSource};
use crate::url::Url;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use eventmesh_edge_uplink_net::Secret;
use http_body_util::Full;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// A secret in a file is read again this often: whoever renews it (a sidecar, a cron job) says nothing.
const REREAD: Duration = Duration::from_secs(30);
/// A token is renewed this long before it ends, or a fifth of its life if that is shorter.
const RENEW_BEFORE: Duration = Duration::from_secs(60);
/// Largest file that a secret is read from (P5).
const SECRET_MAX_BYTES: u64 = 64 * 1_024;

/// Why there is no credential. Names where it should come from, never what it is (P7).
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthError {
    #[error("read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} has an empty first line, or one with characters that no header can hold", path.display())]
    Unusable { path: PathBuf },
    #[error("the configured secret is empty or has characters that no header can hold")]
    UnusableInline,
    #[error("token endpoint {url}: {words}")]
    Broken { url: Url, words: String },
    #[error("token endpoint {url}: no answer within {after:?}")]
    NoAnswer { url: Url, after: Duration },
    #[error("token endpoint {url}: {status}{code}")]
    Refused { url: Url, status: String, code: String },
    #[error("token endpoint {url}: its answer has no bearer token in it")]
    NoToken { url: Url },
}

/// A credential as it was obtained.
#[derive(Clone, Debug)]
pub(crate) struct Obtained {
    header: Option<HeaderValue>,
    /// When to obtain it again; `None` for one that does not change.
    renew_in: Option<Duration>,
    /// When it is of no use any more.
    ends_in: Option<Duration>,
}

/// What a refusal is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It was about an earlier credential: the request goes out again with the present one.
    Outdated,
    /// Obtain a new one first.
    Renew,
    /// There is none to be had.
    Final,
}

#[derive(Debug, Default)]
pub(crate) struct Wallet {
    current: Option<Credential>,
    number: u64,
    /// The credential that was obtained because the one before it was refused, and has not been accepted yet.
    on_trial: Option<u64>,
}

#[derive(Debug)]
struct Credential {
    header: Option<HeaderValue>,
    renewable: bool,
    renew_at: Option<Instant>,
    ends_at: Option<Instant>,
}

impl Wallet {
    /// What the next request shows.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        self.current.as_ref()?.header.clone()
    }

    /// Number of the present credential.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// When it should be obtained again.
    pub(crate) fn renew_at(&self) -> Option<Instant> {
        self.current.as_ref()?.renew_at
    }

    /// There is one, and it has not ended.
    pub(crate) fn is_usable(&self, now: Instant) -> bool {
        self.current.as_ref().is_some_and(|c| c.ends_at.is_none_or(|end| now < end))
    }

    /// Whether a new connection can do without obtaining one.
    pub(crate) fn is_fresh(&self, now: Instant) -> bool {
        self.is_usable(now) && self.renew_at().is_none_or(|at| now < at)
    }

    /// A new one was obtained. False if it is the old one again, which was refused.
    pub(crate) fn put(&mut self, obtained: Obtained, after_refusal: bool, now: Instant) -> bool {
        let same = self.current.as_ref().is_some_and(|c| c.header == obtained.header);
        if !same {
            self.number += 1;
        }
        if after_refusal {
            self.on_trial = Some(self.number);
        }
        self.current = Some(Credential {
            header: obtained.header,
            renewable: obtained.renew_in.is_some() || obtained.ends_in.is_some(),
            renew_at: obtained.renew_in.map(|d| now + d),
            ends_at: obtained.ends_in.map(|d| now + d),
        });
        !(same && after_refusal)
    }

    /// The receiver took a request with credential `number`.
    pub(crate) fn accepted(&mut self, number: u64) {
        if self.on_trial == Some(number) {
            self.on_trial = None;
        }
    }

    /// The receiver refused credential `number`.
    pub(crate) fn refused(&mut self, number: u64) -> Refusal {
        if number != self.number {
            return Refusal::Outdated;
        }
        let renewable = self.current.as_ref().is_some_and(|c| c.renewable);
        if renewable && self.on_trial != Some(number) {
            return Refusal::Renew;
        }
        self.forget();
        Refusal::Final
    }

    /// The next connection begins with a new one.
    pub(crate) fn forget(&mut self) {
        self.current = None;
        self.on_trial = None;
    }
}

/// Reads or fetches it.
pub(crate) async fn obtain(shared: &Shared, dialer: &Dialer) -> Result<Obtained, AuthError> {
    match &shared.options.auth {
        Auth::None => Ok(Obtained { header: None, renew_in: None, ends_in: None }),
        Auth::Bearer(source) => {
            let token = secret(source).await?;
            from_source(source, format!("Bearer {}", token.reveal()))
        }
        Auth::Basic { username, password } => {
            let password_text = secret(password).await?;
            from_source(password, basic(&format!("{username}:{}", password_text.reveal())))
        }
        Auth::OAuth2(oauth) => {
            let wait = shared.options.answer_timeout;
            let fetched = timeout(wait, fetch(shared, dialer, oauth)).await;
            fetched.map_err(|_| AuthError::NoAnswer { url: oauth.token_url.clone(), after: wait })?
        }
    }
}

fn from_source(source: &SecretSource, header: String) -> Result<Obtained, AuthError> {
    let (unusable, renew_in) = match source {
        SecretSource::Inline(_) => (AuthError::UnusableInline, None),
        SecretSource::File(path) => (AuthError::Unusable { path: path.clone() }, Some(REREAD)),
    };
    let header = sensitive(header).ok_or(unusable)?;
    Ok(Obtained { header: Some(header), renew_in, ends_in: None })
}

fn basic(user_and_password: &str) -> String {
    format!("Basic {}", STANDARD.encode(user_and_password))
}

/// A header that hyper, and our own `Debug`, never show.
fn sensitive(value: String) -> Option<HeaderValue> {
    let mut header = HeaderValue::try_from(value).ok()?;
    header.set_sensitive(true);
    Some(header)
}

async fn secret(source: &SecretSource) -> Result<Secret, AuthError> {
    match source {
        SecretSource::Inline(secret) if secret.reveal().is_empty() => Err(AuthError::UnusableInline),
        SecretSource::Inline(secret) => Ok(secret.clone()),
        SecretSource::File(path) => {
            let of = path.clone();
            let read = tokio::task::spawn_blocking(move || first_line(&of)).await;
            let line = read
                .map_err(std::io::Error::other)
                .flatten()
                .map_err(|source| AuthError::Read { path: path.clone(), source })?;
            if line.is_empty() {
                return Err(AuthError::Unusable { path: path.clone() });
            }
            Ok(Secret::new(line))
        }
    }
}

/// Editors and `kubectl` add a newline that is not meant.
fn first_line(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(SECRET_MAX_BYTES).read_to_string(&mut text)?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// RFC 6749 section 4.4.
async fn fetch(shared: &Shared, dialer: &Dialer, oauth: &OAuth2) -> Result<Obtained, AuthError> {
    let url = &oauth.token_url;
    let secret = secret(&oauth.client_secret).await?;
    count(&shared.counters.connections);
    let broken = |words: String| AuthError::Broken { url: url.clone(), words };
    let dialed = dialer.dial(url, Peer::TokenEndpoint, shared.options.connect_timeout).await;
    let mut conn = dialed.map_err(|error| broken(error.to_string()))?;
    let request = token_request(oauth, &secret).ok_or(AuthError::UnusableInline)?;
    let response = conn.request(request).await.map_err(|error| broken(format!("no answer: {error}")))?;
    let status = response.status().as_u16();
    let (_, answer) = finish(conn, response, shared.options.answer_timeout).await;
    if status != 200 {
        let code = error_code(&answer.body).map(|code| format!(": {code}")).unwrap_or_default();
        return Err(AuthError::Refused { url: url.clone(), status: in_words(status), code });
    }
    let obtained = token(&answer.body).ok_or(AuthError::NoToken { url: url.clone() })?;
    count(&shared.counters.tokens_fetched);
    Ok(obtained)
}

fn token_request(oauth: &OAuth2, secret: &Secret) -> Option<Request<Full<hyper::body::Bytes>>> {
    let mut form = "grant_type=client_credentials".to_owned();
    let mut add = |name: &str, value: &str| form.push_str(&format!("&{name}={}", form_encoded(value)));
    if let Some(scope) = &oauth.scope {
        add("scope", scope);
    }
    if let Some(audience) = &oauth.audience {
        add("audience", audience);
    }
    if oauth.style == ClientAuth::Form {
        add("client_id", &oauth.client_id);
        add("client_secret", secret.reveal());
    }
    let mut request = Request::new(Full::new(form.into()));
    *request.method_mut() = Method::POST;
    head(&mut request, &oauth.token_url);
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    if oauth.style == ClientAuth::Basic {
        // Section 2.3.1: both parts are encoded as in a form before they are joined.
        let pair = format!("{}:{}", form_encoded(&oauth.client_id), form_encoded(secret.reveal()));
        headers.insert(AUTHORIZATION, sensitive(basic(&pair))?);
    }
    Some(request)
}

fn form_encoded(text: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
            encoded.push(char::from(b));
        } else {
            write!(encoded, "%{b:02X}").unwrap_or_default();
        }
    }
    encoded
}

/// Section 5.1. Some servers write the number as text.
fn token(body: &[u8]) -> Option<Obtained> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Seconds {
        Number(u64),
        Text(String),
    }
    #[derive(Deserialize)]
    struct Token {
        access_token: String,
        token_type: Option<String>,
        expires_in: Option<Seconds>,
    }
    let token: Token = serde_json::from_slice(body).ok()?;
    let bearer = token.token_type.is_none_or(|t| t.eq_ignore_ascii_case("bearer"));
    if !bearer || token.access_token.is_empty() {
        return None;
    }
    let life = match token.expires_in {
        Some(Seconds::Number(seconds)) => Some(seconds),
        Some(Seconds::Text(text)) => text.trim().parse().ok(),
        None => None,
    };
    // No clock reads further than this, and `Instant` has an end.
    let life = life.map(|seconds: u64| Duration::from_secs(seconds.min(30 * 86_400)));
    Some(Obtained {
        header: Some(sensitive(format!("Bearer {}", token.access_token))?),
        // Without a life it is renewed when it is refused; the first connection after an hour gets a new one anyway.
        renew_in: Some(life.map_or(Duration::from_secs(3_600), |life| life - RENEW_BEFORE.min(life / 5))),
        ends_in: life,
    })
}

/// Section 5.2: `error` is one of a few words, ours to show; `error_description` is not.
fn error_code(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Error {
        error: String,
    }
    let error: Error = serde_json::from_slice(body).ok()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    Some(error.error).filter(|code| code.len() <= 40 && code.chars().all(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn obtained(header: &str, renew: bool) -> Obtained {
        let renew_in = renew.then_some(REREAD);
        Obtained { header: sensitive(header.to_owned()), renew_in, ends_in: None }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_credential_is_renewed_once() {
        let now = Instant::now();
        let mut wallet = Wallet::default();
        wallet.put(obtained("Bearer a", true), false, now);
        let first = wallet.number();
        assert_eq!(wallet.refused(first), Refusal::Renew);
        assert!(wallet.put(obtained("Bearer b", true), true, now));
        assert_eq!(wallet.refused(first), Refusal::Outdated, "a late answer to the old one");
        assert_eq!(wallet.refused(wallet.number()), Refusal::Final, "the new one is refused, too");
        assert!(!wallet.is_usable(now), "the next connection gets another one");
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewed_credential_that_was_accepted_may_be_renewed_again() {
        let now = Instant::now();
        let mut wallet = Wallet::default();
        wallet.put(obtained("Bearer a", true), false, now);
        assert_eq!(wallet.refused(wallet.number()), Refusal::Renew);
        wallet.put(obtained("Bearer b", true), true, now);
        wallet.accepted(wallet.number());
        assert_eq!(wallet.refused(wallet.number()), Refusal::Renew);
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_again_is_no_renewal_and_what_never_changes_is_not_renewed() {
        let now = Instant::now();
        let mut wallet = Wallet::default();
        wallet.put(obtained("Bearer a", true), false, now);
        assert_eq!(wallet.refused(wallet.number()), Refusal::Renew);
        assert!(!wallet.put(obtained("Bearer a", true), true, now));
        let mut wallet = Wallet::default();
        wallet.put(obtained("Bearer a", false), false, now);
        assert_eq!(wallet.refused(wallet.number()), Refusal::Final);
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_are_renewed_before_they_end() {
        for (answer, renew, ends) in [
            (r#"{"access_token":"t","token_type":"Bearer","expires_in":3600}"#, 3_540, Some(3_600)),
            (r#"{"access_token":"t","token_type":"bearer","expires_in":"100"}"#, 80, Some(100)),
            (r#"{"access_token":"t"}"#, 3_600, None),
        ] {
            let token = token(answer.as_bytes()).unwrap();
            assert_eq!(token.renew_in, Some(Duration::from_secs(renew)), "{answer}");
            assert_eq!(token.ends_in, ends.map(Duration::from_secs), "{answer}");
        }
        let now = Instant::now();
        let mut wallet = Wallet::default();
        wallet.put(token(br#"{"access_token":"t","expires_in":100}"#).unwrap(), false, now);
        assert!(wallet.is_fresh(now + Duration::from_secs(79)));
        assert!(
            !wallet.is_fresh(now + Duration::from_secs(80))
                && wallet.is_usable(now + Duration::from_secs(99))
        );
        assert!(!wallet.is_usable(now + Duration::from_secs(100)));
    }

    #[test]
    fn what_is_no_bearer_token_is_none() {
        for answer in ["", "{}", r#"{"access_token":""}"#, r#"{"access_token":"t","token_type":"mac"}"#] {
            assert!(token(answer.as_bytes()).is_none(), "{answer}");
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let obtained = obtained("Bearer hunter2", true);
        let oauth = OAuth2 {
            token_url: Url::parse("https://id.example/token").unwrap(),
            client_id: "node 7".to_owned(),
            client_secret: SecretSource::Inline(Secret::new("hunter2")),
            scope: Some("a b".to_owned()),
            audience: None,
            style: ClientAuth::Basic,
        };
        let request = token_request(&oauth, &Secret::new("hunter2:%")).unwrap();
        assert!(!format!("{obtained:?} {oauth:?} {:?}", request.headers()).contains("hunter2"));
        let sent = request.headers().get(AUTHORIZATION).unwrap().to_str().unwrap();
        assert_eq!(sent, format!("Basic {}", STANDARD.encode("node%207:hunter2%3A%25")));
        assert_eq!(
            error_code(br#"{"error":"invalid_client","error_description":"x"}"#).as_deref(),
            Some("invalid_client")
        );
        assert_eq!(error_code(br#"{"error":"<script>"}"#), None);
    }
}
