//! Which keys differ, old and new value as they would be written, secrets hidden (P7).

use crate::eventmesh::EventMesh;
use crate::http::Http;
use crate::model::{Config, Credentials, Listener, Stream, Uplink, UplinkTls};
use crate::setting::{Setting, quote};
use std::fmt;

/// A key with another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChange {
    /// Within its section: `addresses`.
    pub key: String,
    /// As it was, as it would be written; `None` where that is nobody's business.
    pub from: Option<String>,
    /// As it is.
    pub to: Option<String>,
}

impl fmt::Display for KeyChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => write!(f, "{} {from} -> {to}", self.key),
            _ => write!(f, "{} is another", self.key),
        }
    }
}

/// Collects what differs between two sections of one kind.
#[derive(Default)]
struct Compare(Vec<KeyChange>);

impl Compare {
    fn key<T: Setting + PartialEq>(&mut self, key: &str, from: &T, to: &T) -> &mut Compare {
        self.shown(key, from == to, from.show(), to.show())
    }

    fn optional<T: Setting + PartialEq>(
        &mut self,
        key: &str,
        from: Option<&T>,
        to: Option<&T>,
    ) -> &mut Compare {
        let show = |value: Option<&T>| value.map_or_else(|| "none".to_owned(), Setting::show);
        self.shown(key, from == to, show(from), show(to))
    }

    fn shown(&mut self, key: &str, same: bool, from: String, to: String) -> &mut Compare {
        if !same {
            self.0.push(KeyChange { key: key.to_owned(), from: Some(from), to: Some(to) });
        }
        self
    }

    /// Something secret, or too long to be shown.
    fn hidden(&mut self, key: &str, same: bool) -> &mut Compare {
        if !same {
            self.0.push(KeyChange { key: key.to_owned(), from: None, to: None });
        }
        self
    }

    /// All that was found; if two sections differ and none of the keys above does, that is said too: nothing changes
    /// unseen.
    fn finish(&mut self, same: bool) -> Vec<KeyChange> {
        if !same && self.0.is_empty() {
            self.hidden("a setting", false);
        }
        std::mem::take(&mut self.0)
    }
}

/// What makes an uplink another one.
pub(super) fn of_uplink(a: &Uplink, b: &Uplink) -> Vec<KeyChange> {
    let mut compare = Compare::default();
    compare
        .key("kind", &a.kind, &b.kind)
        .key("addresses", &a.addresses, &b.addresses)
        .key("client_id", &a.client_id, &b.client_id)
        .key("mode", &a.mode, &b.mode)
        .key("order", &a.order, &b.order)
        .key("topic", &a.topic, &b.topic)
        .key("subscribe", &a.subscribe, &b.subscribe)
        .key("subscribe_strip", &a.subscribe_strip, &b.subscribe_strip)
        .key("subscribe_prefix", &a.subscribe_prefix, &b.subscribe_prefix)
        .key("session_expiry", &a.session_expiry, &b.session_expiry)
        .key("window_events", &a.window_events, &b.window_events)
        .key("window_bytes", &a.window_bytes, &b.window_bytes)
        .key("connect_timeout", &a.connect_timeout, &b.connect_timeout)
        .key("answer_timeout", &a.answer_timeout, &b.answer_timeout)
        .key("keep_alive", &a.keep_alive, &b.keep_alive)
        .key("retry_min", &a.retry_min, &b.retry_min)
        .key("retry_max", &a.retry_max, &b.retry_max);
    tls(&mut compare, a.tls.as_ref(), b.tls.as_ref());
    credentials(&mut compare, a.credentials.as_ref(), b.credentials.as_ref());
    if let (Some(a), Some(b)) = (&a.http, &b.http) {
        http(&mut compare, a, b);
    }
    if let (Some(a), Some(b)) = (&a.eventmesh, &b.eventmesh) {
        eventmesh(&mut compare, a, b);
    }
    compare.finish(a == b)
}

fn tls(compare: &mut Compare, a: Option<&UplinkTls>, b: Option<&UplinkTls>) {
    let (Some(a), Some(b)) = (a, b) else {
        compare.shown("tls", a.is_some() == b.is_some(), on_off(a.is_some()), on_off(b.is_some()));
        return;
    };
    compare
        .optional("tls.ca", a.ca.as_ref(), b.ca.as_ref())
        .optional("tls.cert", a.identity.as_ref().map(|i| &i.cert), b.identity.as_ref().map(|i| &i.cert))
        .optional("tls.key", a.identity.as_ref().map(|i| &i.key), b.identity.as_ref().map(|i| &i.key))
        .optional("tls.server_name", a.server_name.as_ref(), b.server_name.as_ref());
}

fn credentials(compare: &mut Compare, a: Option<&Credentials>, b: Option<&Credentials>) {
    compare.optional("username", a.map(|c| &c.username), b.map(|c| &c.username));
    compare.hidden("password", a.map(|c| &c.password) == b.map(|c| &c.password));
}

fn http(compare: &mut Compare, a: &Http, b: &Http) {
    // `Display`, not as written: a key may be in the query.
    let urls = |http: &Http| http.urls.iter().map(|url| quote(&url.to_string())).collect::<Vec<_>>();
    let list = |http: &Http| format!("[{}]", urls(http).join(", "));
    if urls(a) == urls(b) {
        compare.hidden("urls", a.urls == b.urls);
    } else {
        compare.shown("urls", false, list(a), list(b));
    }
    compare
        .key("mode", &a.mode, &b.mode)
        .key("batch_events", &a.batch_events, &b.batch_events)
        .key("batch_bytes", &a.batch_bytes, &b.batch_bytes)
        .key("gzip", &a.gzip, &b.gzip)
        .key("connections", &a.connections, &b.connections)
        .key("redirects_max", &a.redirects_max, &b.redirects_max)
        .key("probe_interval", &a.probe_interval, &b.probe_interval)
        .key("return_interval", &a.return_interval, &b.return_interval)
        .key("cleartext_credentials", &a.cleartext_credentials, &b.cleartext_credentials)
        .hidden("auth", a.auth == b.auth);
}

fn eventmesh(compare: &mut Compare, a: &EventMesh, b: &EventMesh) {
    compare
        .key("topic", &a.topic, &b.topic)
        .key("env", &a.env, &b.env)
        .key("idc", &a.idc, &b.idc)
        .key("sys", &a.sys, &b.sys)
        .key("producer_group", &a.producer_group, &b.producer_group)
        .optional("ip", a.ip.as_ref(), b.ip.as_ref())
        .optional("pid", a.pid.as_ref(), b.pid.as_ref())
        .key("ttl", &a.ttl, &b.ttl)
        .key("message_max", &a.message_max, &b.message_max)
        .key("return_interval", &a.return_interval, &b.return_interval)
        .key("subscribe", &a.subscribe, &b.subscribe)
        .optional("consumer_group", a.consumer_group.as_ref(), b.consumer_group.as_ref())
        .key("consume_mode", &a.consume_mode, &b.consume_mode)
        .key("heartbeat", &a.heartbeat, &b.heartbeat)
        .optional("receipts", a.receipts.as_ref(), b.receipts.as_ref());
}

fn on_off(on: bool) -> String {
    if on { "on" } else { "off" }.to_owned()
}

/// What cannot change while the node runs, by key.
pub(super) fn fixed(running: &Config, new: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    section(&mut lines, "node", &node(running, new));
    section(&mut lines, "log", &log(running, new));
    section(&mut lines, "admin", &admin(running, new));
    section(&mut lines, "session", &session(running, new));
    section(&mut lines, "telemetry", &telemetry(running, new));
    if running.listeners.len() != new.listeners.len() {
        let (before, now) = (running.listeners.len(), new.listeners.len());
        lines.push(format!("listener: {now} instead of {before}, listeners need a restart"));
        return lines;
    }
    for (index, (a, b)) in running.listeners.iter().zip(&new.listeners).enumerate() {
        section(&mut lines, &format!("listener[{index}]"), &listener(a, b));
    }
    lines
}

/// The same of a stream: its bounds in time and its policy. Its budget may change.
pub(super) fn fixed_of_stream(a: &Stream, b: &Stream) -> Vec<String> {
    let mut compare = Compare::default();
    compare.key("class", &a.class, &b.class).optional("max_age", a.max_age.as_ref(), b.max_age.as_ref()).key(
        "when_full",
        &a.when_full,
        &b.when_full,
    );
    let mut lines = Vec::new();
    section(&mut lines, &format!("stream \"{}\"", a.name), &compare.finish(true));
    lines
}

fn section(lines: &mut Vec<String>, name: &str, changes: &[KeyChange]) {
    lines.extend(changes.iter().map(|change| match (&change.from, &change.to) {
        (Some(from), Some(to)) => {
            format!("{name}.{} = {to}: needs a restart, the node runs with {from}", change.key)
        }
        _ => format!("{name}.{}: is another, which needs a restart", change.key),
    }));
}

fn node(a: &Config, b: &Config) -> Vec<KeyChange> {
    let (a, b) = (&a.node, &b.node);
    Compare::default()
        .key("name", &a.name, &b.name)
        .key("data_dir", &a.data_dir, &b.data_dir)
        .key("disk_max", &a.disk_max, &b.disk_max)
        .key("commit_delay", &a.commit_delay, &b.commit_delay)
        .key("sys_interval", &a.sys_interval, &b.sys_interval)
        .key("stop_timeout", &a.stop_timeout, &b.stop_timeout)
        // `unrouted` is a route.
        .finish(true)
}

fn log(a: &Config, b: &Config) -> Vec<KeyChange> {
    let same = a.log == b.log;
    let (a, b) = (&a.log, &b.log);
    Compare::default().key("format", &a.format, &b.format).key("level", &a.level, &b.level).finish(same)
}

fn admin(a: &Config, b: &Config) -> Vec<KeyChange> {
    Compare::default().key("socket", &a.admin.socket, &b.admin.socket).finish(a.admin == b.admin)
}

fn session(a: &Config, b: &Config) -> Vec<KeyChange> {
    let same = a.session == b.session;
    let (a, b) = (&a.session, &b.session);
    Compare::default()
        .key("mailbox_max_bytes", &a.mailbox_max_bytes, &b.mailbox_max_bytes)
        .key("mailbox_max_events", &a.mailbox_max_events, &b.mailbox_max_events)
        .optional("mailboxes_max_bytes", a.mailboxes_max_bytes.as_ref(), b.mailboxes_max_bytes.as_ref())
        .key("expiry_max", &a.expiry_max, &b.expiry_max)
        .key("sessions_max", &a.sessions_max, &b.sessions_max)
        .key("retained_max_bytes", &a.retained_max_bytes, &b.retained_max_bytes)
        .finish(same)
}

fn telemetry(a: &Config, b: &Config) -> Vec<KeyChange> {
    let same = a.telemetry == b.telemetry;
    let (a, b) = (&a.telemetry, &b.telemetry);
    Compare::default()
        .key("enabled", &a.enabled, &b.enabled)
        .key("heartbeat", &a.heartbeat, &b.heartbeat)
        .key("client_events", &a.client_events, &b.client_events)
        .finish(same)
}

fn listener(a: &Listener, b: &Listener) -> Vec<KeyChange> {
    Compare::default()
        .key("kind", &a.kind, &b.kind)
        .key("bind", &a.bind, &b.bind)
        .hidden("auth", a.auth == b.auth)
        .hidden("tls", a.tls == b.tls)
        .key("max_connections", &a.max_connections, &b.max_connections)
        .key("logins_at_once", &a.logins_at_once, &b.logins_at_once)
        .key("max_payload", &a.max_payload, &b.max_payload)
        .optional("keep_alive_max", a.keep_alive_max.as_ref(), b.keep_alive_max.as_ref())
        .key("connect_timeout", &a.connect_timeout, &b.connect_timeout)
        .key("when_full", &a.when_full, &b.when_full)
        .key("receive_maximum", &a.receive_maximum, &b.receive_maximum)
        .key("send_window", &a.send_window, &b.send_window)
        .key("topic_alias_max", &a.topic_alias_max, &b.topic_alias_max)
        .key("subscriptions_max", &a.subscriptions_max, &b.subscriptions_max)
        .key("queue_events", &a.queue_events, &b.queue_events)
        .key("queue_bytes", &a.queue_bytes, &b.queue_bytes)
        .optional("redirect_to", a.redirect_to.as_ref(), b.redirect_to.as_ref())
        .key("redirect_when", &a.redirect_when, &b.redirect_when)
        .finish(a == b)
}
