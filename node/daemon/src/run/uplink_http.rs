//! An HTTP uplink from its section.

use super::uplinks::{AdapterFigures, tls};
use anyhow::Context;
use eventmesh_edge_config::{Http, HttpAuth, HttpMode, HttpUrl, OAuthClientAuth, Password, Uplink};
use eventmesh_edge_core::ports::uplink::Uplink as UplinkPort;
use eventmesh_edge_runtime::floor::TimeFloor;
use eventmesh_edge_uplink_http::{self as http, HttpUplink};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The adapter, and what it counts.
pub(super) fn adapter(
    uplink: &Uplink,
    floor: &Arc<TimeFloor>,
) -> anyhow::Result<(Box<dyn UplinkPort>, AdapterFigures)> {
    let section = uplink.http.as_ref().context("kind = \"http\" without its keys")?;
    let floor = Arc::clone(floor);
    let time: http::CertificateTime = Arc::new(move || floor.now());
    let options = http::Options { certificate_time: Some(time), ..options(uplink, section)? };
    let adapter = HttpUplink::new(options)?;
    let counters = adapter.counters();
    Ok((Box::new(adapter), Box::new(move || figures(counters.read()))))
}

fn options(uplink: &Uplink, section: &Http) -> anyhow::Result<http::Options> {
    let urls = section.urls.iter().map(url).collect::<anyhow::Result<_>>()?;
    Ok(http::Options {
        tls: uplink.tls.as_ref().map(tls).unwrap_or_default(),
        auth: auth(&section.auth)?,
        cleartext_credentials: section.cleartext_credentials,
        mode: match section.mode {
            HttpMode::Binary => http::Mode::Binary,
            HttpMode::Structured => http::Mode::Structured,
            HttpMode::Batch => http::Mode::Batch,
        },
        batch_events: section.batch_events as usize,
        batch_bytes: section.batch_bytes.as_usize(),
        gzip: section.gzip,
        connections: section.connections as usize,
        redirects_max: u8::try_from(section.redirects_max).unwrap_or(u8::MAX),
        connect_timeout: uplink.connect_timeout,
        answer_timeout: uplink.answer_timeout,
        probe_interval: section.probe_interval,
        return_interval: section.return_interval,
        ..http::Options::new(urls)
    })
}

fn url(url: &HttpUrl) -> anyhow::Result<http::Url> {
    http::Url::parse(url.expose()).map_err(|error| anyhow::anyhow!("the URL {url} {error}"))
}

fn auth(auth: &HttpAuth) -> anyhow::Result<http::Auth> {
    Ok(match auth {
        HttpAuth::None => http::Auth::None,
        HttpAuth::Bearer(token) => http::Auth::Bearer(source(token)),
        HttpAuth::Basic { username, password } => {
            http::Auth::Basic { username: username.clone(), password: source(password) }
        }
        HttpAuth::OAuth2(oauth2) => http::Auth::OAuth2(http::OAuth2 {
            token_url: url(&oauth2.token_url)?,
            client_id: oauth2.client_id.clone(),
            client_secret: source(&oauth2.client_secret),
            scope: oauth2.scope.clone(),
            audience: oauth2.audience.clone(),
            style: match oauth2.client_auth {
                OAuthClientAuth::Basic => http::ClientAuth::Basic,
                OAuthClientAuth::Form => http::ClientAuth::Form,
            },
        }),
    })
}

fn source(password: &Password) -> http::SecretSource {
    match password {
        Password::Inline(secret) => http::SecretSource::Inline(http::Secret::new(secret.expose())),
        Password::File(path) => http::SecretSource::File(path.clone()),
    }
}

fn figures(counts: http::Counts) -> BTreeMap<String, u64> {
    let figures = [
        ("requests", counts.requests),
        ("body_bytes", counts.body_bytes),
        ("connections", counts.connections),
        ("batches_split", counts.batches_split),
        ("redirects_followed", counts.redirects_followed),
        ("tokens_fetched", counts.tokens_fetched),
        ("probes", counts.probes),
    ];
    figures.into_iter().map(|(name, n)| (name.to_owned(), n)).collect()
}
