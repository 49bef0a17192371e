//! What an attempt to connect does: files, credential, connection, in this order.

use crate::auth::{AuthError, Obtained, obtain};
use crate::counters::count;
use crate::dial::{Conn, DialError, Dialer, Peer};
use crate::exchange::Shared;
use crate::options::Auth;
use crate::tls::Tls;
use crate::url::Url;
use eventmesh_edge_uplink_net as net;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// A receiver that is ready, as far as one can know before it was asked for anything.
pub(crate) struct Connected {
    pub(crate) dialer: Arc<Dialer>,
    /// `None`: the one that there is will do.
    pub(crate) credential: Option<Obtained>,
    pub(crate) conn: Conn,
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum ConnectError {
    /// In words.
    Down(String),
    /// Nobody took the connection, in words.
    Unreachable(String),
    /// The receiver asked to be left alone for so long.
    Paused(Duration, String),
    /// No credential, and not for want of a connection.
    NoCredential(String),
}

impl From<DialError> for ConnectError {
    fn from(error: DialError) -> ConnectError {
        match error.is_unreachable() {
            true => ConnectError::Unreachable(error.to_string()),
            false => ConnectError::Down(error.to_string()),
        }
    }
}

impl From<AuthError> for ConnectError {
    fn from(error: AuthError) -> ConnectError {
        match error {
            AuthError::Broken { .. } | AuthError::NoAnswer { .. } => ConnectError::Down(error.to_string()),
            _ => ConnectError::NoCredential(error.to_string()),
        }
    }
}

/// What is known before an attempt.
pub(crate) struct Attempt {
    pub(crate) url: Url,
    pub(crate) timeout: Duration,
    /// The receiver asked to be left alone until then; why.
    pub(crate) pause: Option<(Instant, String)>,
    /// A connection that is still open.
    pub(crate) live: Option<Conn>,
    pub(crate) needs_credential: bool,
}

/// Connects within the attempt's time.
pub(crate) async fn connect(shared: Arc<Shared>, attempt: Attempt) -> Result<Connected, ConnectError> {
    let begun = Instant::now();
    if let Some((until, why)) = &attempt.pause {
        let left = until.saturating_duration_since(begun);
        // Half of the time is for the connection.
        if left > attempt.timeout / 2 {
            return Err(ConnectError::Paused(left, why.clone()));
        }
        sleep(left).await;
    }
    let limit = attempt.timeout.saturating_sub(begun.elapsed());
    let whole = attempt.timeout;
    match timeout(limit, ready(shared, attempt, limit)).await {
        Ok(done) => done,
        Err(_) => Err(DialError::Timeout(whole).into()),
    }
}

async fn ready(shared: Arc<Shared>, attempt: Attempt, limit: Duration) -> Result<Connected, ConnectError> {
    let dialer = Arc::new(dialer(&shared).await?);
    let credential = match attempt.needs_credential {
        true => Some(obtain(&shared, &dialer).await?),
        false => None,
    };
    let conn = match attempt.live {
        Some(live) => live,
        None => {
            count(&shared.counters.connections);
            dialer.dial(&attempt.url, Peer::Receiver, limit).await?
        }
    };
    Ok(Connected { dialer, credential, conn })
}

async fn dialer(shared: &Arc<Shared>) -> Result<Dialer, DialError> {
    let options = &shared.options;
    let token_url = match &options.auth {
        Auth::OAuth2(oauth) => Some(&oauth.token_url),
        _ => None,
    };
    let secure = options.urls.iter().chain(token_url).any(Url::is_secure);
    let tls = match secure {
        true => {
            let shared = Arc::clone(shared);
            let read = move || Tls::read(&shared.options.tls, shared.options.certificate_time.as_ref());
            let read = tokio::task::spawn_blocking(read).await;
            let read = read.map_err(|error| net::ConnectError::Tls(std::io::Error::other(error)))?;
            Some(read.map_err(net::ConnectError::from)?)
        }
        false => None,
    };
    Ok(Dialer {
        tls,
        server_name: options.tls.server_name.clone(),
        probe_interval: options.probe_interval,
        written: Arc::clone(&shared.written),
    })
}
