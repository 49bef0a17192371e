//! Listeners from their sections, and the one client table behind all of them.

use super::live::Changes;
use super::observe::ListenerView;
use super::stage::{Stage, StopSignal};
use anyhow::Context;
use eventmesh_edge_config::{Auth, Config, Listener, ListenerKind, ListenerWhenFull, RedirectWhen};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::hub::{Authenticator, Hub};
use eventmesh_edge_core::ports::store::Store;
use eventmesh_edge_ingress_mqtt::outlet::QueueBounds;
use eventmesh_edge_ingress_mqtt::{
    self as mqtt, Limits, ListenerOptions, LivePasswords, SessionOptions, Sessions, Stats, TlsOptions,
    WhenFull,
};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

/// Bound listeners; devices are let in once they are spawned.
pub(super) struct Listeners {
    bound: Vec<Bound>,
    #[cfg(feature = "coap")]
    coap: super::coap::Listeners,
    stats: Arc<Stats>,
}

struct Bound {
    config: Listener,
    listener: mqtt::Listener,
}

impl Listeners {
    /// Loads the sessions that were kept, reads password files and certificates, binds.
    pub(super) fn bind(
        config: &Config,
        hub: Arc<dyn Hub>,
        store: &Arc<dyn Store>,
        clock: &Arc<dyn Clock>,
    ) -> anyhow::Result<Listeners> {
        refuse_what_is_left_out(config)?;
        #[cfg(feature = "coap")]
        let coap = super::coap::Listeners::bind(config, &hub, store, clock)?;
        let sessions = Arc::new(Sessions::new(hub, Arc::clone(clock), session_options(config)));
        let restored = sessions.restore(&&**store).context("load the sessions of clients")?;
        info!(
            sessions = restored.sessions,
            subscriptions = restored.subscriptions,
            wills = restored.wills,
            skipped = restored.skipped,
            orphans = restored.orphans,
            "sessions loaded"
        );
        let mut passwords = HashMap::new();
        let bind = |(index, listener): (usize, &Listener)| {
            bind(config, listener, &sessions, &mut passwords).with_context(|| format!("listener[{index}]"))
        };
        let mqtt = config.listeners.iter().enumerate().filter(|(_, l)| l.kind == ListenerKind::Mqtt);
        let bound = mqtt.map(bind).collect::<anyhow::Result<_>>()?;
        Ok(Listeners {
            bound,
            #[cfg(feature = "coap")]
            coap,
            stats: Arc::clone(sessions.stats()),
        })
    }

    /// What came in, over all of them.
    pub(super) fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }

    /// The real addresses, as URLs.
    pub(super) fn urls(&self) -> Vec<String> {
        let scheme = |bound: &Bound| if bound.config.tls.is_some() { "mqtts" } else { "mqtt" };
        let mqtt =
            self.bound.iter().map(|bound| format!("{}://{}", scheme(bound), bound.listener.local_addr()));
        #[cfg(feature = "coap")]
        return mqtt.chain(self.coap.urls()).collect();
        #[cfg(not(feature = "coap"))]
        mqtt.collect()
    }

    pub(super) fn views(&self) -> Vec<ListenerView> {
        let view = |bound: &Bound| ListenerView {
            config: bound.config.clone(),
            address: bound.listener.local_addr(),
            connected: Box::new(bound.listener.connections()),
            figures: None,
        };
        let mqtt = self.bound.iter().map(view);
        #[cfg(feature = "coap")]
        return mqtt.chain(self.coap.views()).collect();
        #[cfg(not(feature = "coap"))]
        mqtt.collect()
    }

    pub(super) fn spawn(self, stage: &mut Stage, changes: Changes) {
        let reloads: Vec<Reload> =
            self.bound.iter().map(|bound| Box::new(bound.listener.reload()) as Reload).collect();
        stage.spawn(|stop| reload_at_sighup(reloads.into(), changes, stop));
        #[cfg(feature = "coap")]
        self.coap.spawn(stage);
        for Bound { listener, .. } in self.bound {
            let address = listener.local_addr();
            stage.spawn(|stop| async move {
                if let Err(error) = listener.run(stop).await {
                    error!(%address, %error, "listener ended");
                }
            });
        }
    }
}

/// A listener whose protocol this program was built without.
fn refuse_what_is_left_out(config: &Config) -> anyhow::Result<()> {
    let left_out = |listener: &Listener| !cfg!(feature = "coap") && listener.kind == ListenerKind::Coap;
    match config.listeners.iter().position(left_out) {
        None => Ok(()),
        Some(index) => {
            anyhow::bail!("listener[{index}]: this program was built without CoAP (feature `coap`)")
        }
    }
}

/// Reads one listener's certificate and password file again.
type Reload = Box<dyn Fn() + Send + Sync>;

/// SIGHUP: certificates and password files are read again now (changed ones are noticed by themselves, seconds later), and
/// so is the configuration.
async fn reload_at_sighup(reloads: Arc<[Reload]>, changes: Changes, stop: StopSignal) {
    let mut hangups = match signal(SignalKind::hangup()) {
        Ok(hangups) => hangups,
        Err(error) => {
            error!(%error, "SIGHUP cannot be caught: it would end the node");
            return stop.await;
        }
    };
    let rereading = async {
        while hangups.recv().await.is_some() {
            info!(signal = "SIGHUP", "reading certificates and password files again");
            let reloads = Arc::clone(&reloads);
            let read = tokio::task::spawn_blocking(move || reloads.iter().for_each(|reload| reload()));
            if let Err(error) = read.await {
                error!(%error, "reading them again did not end well");
            }
            changes.hang_up().await;
        }
    };
    tokio::select! {
        () = rereading => {}
        () = stop => {}
    }
}

fn session_options(config: &Config) -> SessionOptions {
    SessionOptions {
        node: Text::from(config.node.name.to_string()),
        sessions_max: config.session.sessions_max as usize,
        expiry_max_secs: u32::try_from(config.session.expiry_max.as_secs()).unwrap_or(u32::MAX),
        client_events: config.telemetry.client_events,
        anonymous_apart: config.listeners.iter().any(|listener| listener.auth != Auth::Anonymous),
        // A session that was kept does not say which listener it came by: the first one's bounds are as good as any.
        queue: config.listeners.first().map_or(SessionOptions::default().queue, queue),
        ..SessionOptions::default()
    }
}

fn bind(
    config: &Config,
    listener: &Listener,
    sessions: &Arc<Sessions>,
    passwords: &mut HashMap<std::path::PathBuf, Arc<LivePasswords>>,
) -> anyhow::Result<Bound> {
    let auth = match &listener.auth {
        Auth::Anonymous => None,
        Auth::Password { file } => Some(password_file(file, passwords)? as Arc<dyn Authenticator>),
    };
    let options = options(listener, config.node.stop_timeout.mul_f64(LISTENERS_OF_STOP));
    let bound = mqtt::bind(options, Arc::clone(sessions), auth)?;
    Ok(Bound { config: listener.clone(), listener: bound })
}

/// Part of the time for a graceful stop that clients get to take their DISCONNECT.
const LISTENERS_OF_STOP: f64 = 0.2;

/// Read once, however many listeners share it: its users are then remembered together.
fn password_file(
    path: &Path,
    known: &mut HashMap<std::path::PathBuf, Arc<LivePasswords>>,
) -> anyhow::Result<Arc<LivePasswords>> {
    if let Some(file) = known.get(path) {
        return Ok(Arc::clone(file));
    }
    let file = Arc::new(LivePasswords::load(path)?);
    known.insert(path.to_owned(), Arc::clone(&file));
    Ok(file)
}

fn options(listener: &Listener, stop_timeout: Duration) -> ListenerOptions {
    let u16_of = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    let keep_alive = listener.keep_alive_max.map(|time| u16::try_from(time.as_secs()).unwrap_or(u16::MAX));
    ListenerOptions {
        tls: listener.tls.as_ref().map(|tls| TlsOptions {
            cert: tls.identity.cert.clone(),
            key: tls.identity.key.clone(),
            client_ca: tls.client_ca.clone(),
        }),
        connections_max: listener.max_connections as usize,
        logins_at_once: listener.logins_at_once as usize,
        stop_timeout,
        limits: Limits {
            payload_max_bytes: u32::try_from(listener.max_payload.bytes()).unwrap_or(u32::MAX),
            receive_maximum: u16_of(listener.receive_maximum),
            topic_alias_maximum: u16_of(listener.topic_alias_max),
            send_window: u16_of(listener.send_window),
            keep_alive_max_secs: keep_alive,
            connect_timeout: listener.connect_timeout,
            when_full: match listener.when_full {
                ListenerWhenFull::Withhold => WhenFull::Withhold,
                ListenerWhenFull::Reject => WhenFull::Reject,
            },
            anonymous: listener.auth == Auth::Anonymous,
            subscriptions_max: listener.subscriptions_max as usize,
            queue: queue(listener),
            redirect_to: listener.redirect_to.clone().map(Text::from),
            redirect_all: listener.redirect_when == RedirectWhen::Always,
            ..Limits::default()
        },
        ..ListenerOptions::new(listener.bind)
    }
}

fn queue(listener: &Listener) -> QueueBounds {
    QueueBounds { max_events: listener.queue_events as usize, max_bytes: listener.queue_bytes.as_usize() }
}
