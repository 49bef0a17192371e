//! From single values to a whole that fits together: references, budgets, and what is allowed but may not be meant.

use crate::environment::variable_for;
use crate::model::{
    Auth, Class, Config, Credentials, DEFAULT_STREAM, Listener, ListenerKind, ListenerTls, NODE_STREAM,
    Route, Stream, StreamWhenFull, Unrouted, Uplink,
};
use crate::problem::Problem;
use crate::sections::{Raw, RawListener, RawRoute, RawStream, RawUplink};
use crate::setting::Name;
use crate::suggest::nearest;
use crate::telemetry;
use crate::units::ByteSize;
use std::collections::BTreeSet;

/// Room of the data directory that no stream may take: journal, cursors, sessions, mailboxes, the ledger. Without it a
/// full stream would keep cursors from being written and so never drain.
#[must_use]
pub fn reserve(disk_max: ByteSize) -> ByteSize {
    ByteSize::from_bytes((disk_max.bytes() / 8).clamp(16 << 20, 256 << 20))
}

/// The least a stream can be given.
const SMALLEST_STREAM: ByteSize = ByteSize::from_mib(1);

pub(crate) fn resolve(raw: Raw) -> (Config, Vec<Problem>) {
    let mut problems = Vec::new();
    check_auth(&raw.listeners, &mut problems);
    let listeners: Vec<Listener> = raw.listeners.into_iter().map(|raw| raw.listener).collect();
    check_listeners(&listeners, raw.node.disk_max, &mut problems);
    let uplink_names = raw.uplinks.iter().enumerate().map(|(i, u)| (format!("uplink[{i}]"), u.name.as_ref()));
    check_names("uplink", uplink_names, &mut problems);
    let mut streams = with_default(raw.streams);
    check_names("stream", streams.iter().map(|(path, s)| (path.clone(), s.name.as_ref())), &mut problems);
    telemetry::check_name(&streams, &mut problems);
    let mut readers = readers(&streams, &raw.routes, &raw.uplinks, &mut problems);
    let chosen = raw.telemetry_uplinks.as_deref();
    let of_node = telemetry::stream(raw.telemetry.enabled, chosen, &raw.uplinks, &mut problems);
    if let Some((stream, uplinks)) = of_node {
        streams.push((NODE_STREAM.to_owned(), stream));
        readers.push(uplinks);
    }
    let budgets = budgets(&streams, raw.node.disk_max, &mut problems);
    let routes = raw
        .routes
        .into_iter()
        .enumerate()
        .filter_map(|(i, r)| route(i, r, &streams, &mut problems))
        .collect();
    let streams = streams.into_iter().zip(budgets).zip(readers);
    let config = Config {
        streams: streams
            .filter_map(|((stream, budget), uplinks)| finish_stream(stream.1, budget, uplinks))
            .collect(),
        uplinks: raw.uplinks.into_iter().filter_map(|u| uplink(u, &raw.node.name)).collect(),
        node: raw.node,
        log: raw.log,
        admin: raw.admin,
        session: raw.session,
        telemetry: raw.telemetry,
        listeners,
        routes,
        warnings: Vec::new(),
    };
    (config, problems)
}

/// The streams of the file with their paths; the default stream first, made up if the file does not have it.
fn with_default(streams: Vec<RawStream>) -> Vec<(String, RawStream)> {
    let named = streams.into_iter().enumerate().map(|(i, s)| (format!("stream[{i}]"), s));
    let (mut all, others): (Vec<_>, Vec<_>) = named.partition(|(_, s)| is_default(s));
    if all.is_empty() {
        let stream = RawStream {
            name: Name::parse(DEFAULT_STREAM).ok(),
            class: Class::Durable,
            max_bytes: None,
            max_age: None,
            when_full: StreamWhenFull::Refuse,
        };
        all.push((DEFAULT_STREAM.to_owned(), stream));
    }
    all.extend(others);
    all
}

fn is_default(stream: &RawStream) -> bool {
    stream.name.as_ref().is_some_and(|name| name.as_str() == DEFAULT_STREAM)
}

/// Two sections of one name would be one budget, one cursor, one line in `status`.
fn check_names<'n>(
    section: &str,
    names: impl Iterator<Item = (String, Option<&'n Name>)>,
    problems: &mut Vec<Problem>,
) {
    let mut seen = BTreeSet::new();
    for (path, name) in names {
        if let Some(name) = name.filter(|name| !seen.insert(name.as_str())) {
            let what = format!("is the name of an earlier {section} too, each needs its own");
            problems.push(Problem::of(format!("{path}.name = \"{name}\""), what));
        }
    }
}

/// P7: whoever can be reached from elsewhere says who gets in. Checked when the address is final: environment and
/// `--listen` move it too.
fn check_auth(listeners: &[RawListener], problems: &mut Vec<Problem>) {
    let mut reported = BTreeSet::new();
    for RawListener { listener, section, auth_stated } in listeners {
        if *auth_stated || !is_reachable(listener) || !reported.insert(section) {
            continue;
        }
        let what = format!(
            "missing, and other machines reach {}: write auth = \"password\" with a password_file, or auth = \"anonymous\" to \
             let anybody in (in the environment: {})",
            listener.bind,
            variable_for(&format!("listener[{section}].auth"))
        );
        problems.push(Problem::of(format!("listener[{section}].auth"), what));
    }
}

/// Whether somebody outside of this machine may connect. An unspecified address (`[::]`, `0.0.0.0`) takes connections
/// on all of them.
fn is_reachable(listener: &Listener) -> bool {
    !listener.bind.ip().to_canonical().is_loopback()
}

fn check_listeners(listeners: &[Listener], disk_max: ByteSize, problems: &mut Vec<Problem>) {
    for (index, listener) in listeners.iter().enumerate() {
        // UDP and TCP have ports of their own.
        let same = |l: &Listener| (l.kind, l.bind) == (listener.kind, listener.bind) && l.bind.port() != 0;
        let taken = listeners.iter().take(index).position(same);
        if let Some(earlier) = taken {
            let what = format!("is the address of listener[{earlier}] too, each needs its own");
            problems.push(Problem::of(format!("listener[{index}].bind = \"{}\"", listener.bind), what));
        }
        let is_coap = |l: &&Listener| l.kind == ListenerKind::Coap;
        if is_coap(&listener) && listeners.iter().take(index).any(|l| is_coap(&l)) {
            let what = "one listener takes CoAP: mailboxes and observers are its own; [::] takes IPv4 too";
            problems.push(Problem::of(format!("listener[{index}].kind = \"coap\""), what));
        }
        let payload = listener.max_payload;
        let needed = ByteSize::from_bytes(payload.bytes().saturating_mul(DISK_PER_PAYLOAD));
        if needed > disk_max {
            let what = format!("needs node.disk_max = \"{needed}\" or more, it is \"{disk_max}\"");
            problems.push(Problem::of(format!("listener[{index}].max_payload = \"{payload}\""), what));
        }
    }
}

/// The journal has at least 32 segments, and the largest message with all that is committed with it must fit one of
/// them: twice its payload.
const DISK_PER_PAYLOAD: u64 = 2 * 32;

/// Per stream: the uplinks that read it, as indices. The default stream goes to every uplink, any other to those that
/// its routes name, or to every uplink if none of them names any.
fn readers(
    streams: &[(String, RawStream)],
    routes: &[RawRoute],
    uplinks: &[RawUplink],
    problems: &mut Vec<Problem>,
) -> Vec<Vec<usize>> {
    let every: Vec<usize> = (0..uplinks.len()).collect();
    let named: Vec<Option<Vec<usize>>> =
        routes.iter().enumerate().map(|(i, route)| named_uplinks(i, route, uplinks, problems)).collect();
    let of_stream = |(_, stream): &(String, RawStream)| {
        let mut agreed: Option<(usize, &Vec<usize>)> = None;
        for (index, (route, named)) in routes.iter().zip(&named).enumerate() {
            let Some(named) = named.as_ref().filter(|_| Some(&route.stream) == stream.name.as_ref()) else {
                continue;
            };
            match agreed {
                _ if is_default(stream) && *named != every => problems.push(default_goes_everywhere(index)),
                Some((first, uplinks)) if uplinks != named => {
                    problems.push(disagreement(index, first, &route.stream))
                }
                Some(_) => {}
                None => agreed = Some((index, named)),
            }
        }
        if is_default(stream) {
            every.clone()
        } else {
            agreed.map_or_else(|| every.clone(), |(_, named)| named.clone())
        }
    };
    streams.iter().map(of_stream).collect()
}

fn default_goes_everywhere(route: usize) -> Problem {
    let what = "the default stream goes to every uplink; to choose, give this route a [[stream]] of its own";
    Problem::of(format!("route[{route}].uplinks"), what)
}

fn disagreement(route: usize, first: usize, stream: &Name) -> Problem {
    let what = format!(
        "differs from route[{first}].uplinks, but both fill stream \"{stream}\", and a stream has one set of uplinks: \
         name the same or use two streams"
    );
    Problem::of(format!("route[{route}].uplinks"), what)
}

/// The uplinks that a route names, sorted; unknown ones are problems.
fn named_uplinks(
    index: usize,
    route: &RawRoute,
    uplinks: &[RawUplink],
    problems: &mut Vec<Problem>,
) -> Option<Vec<usize>> {
    let mut found = Vec::new();
    for name in route.uplinks.as_ref()? {
        match uplinks.iter().position(|u| u.name.as_ref() == Some(name)) {
            Some(uplink) => found.push(uplink),
            // An uplink whose own name is wrong has its own problem: do not add one that follows from it.
            None if uplinks.iter().any(|u| u.name.is_none()) => return None,
            None => {
                let known = uplinks.iter().filter_map(|u| u.name.as_ref()).map(Name::as_str);
                problems.push(missing(format!("route[{index}].uplinks"), "uplink", name, known));
                return None;
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    Some(found)
}

pub(crate) fn missing<'n>(
    key: String,
    section: &str,
    name: &Name,
    known: impl Iterator<Item = &'n str>,
) -> Problem {
    let hint = match nearest(name.as_str(), known) {
        Some(meant) => format!("did you mean \"{meant}\"?"),
        None => format!("add [[{section}]] with name = \"{name}\""),
    };
    Problem::of(key, format!("there is no {section} \"{name}\", {hint}"))
}

fn route(
    index: usize,
    raw: RawRoute,
    streams: &[(String, RawStream)],
    problems: &mut Vec<Problem>,
) -> Option<Route> {
    let stream = streams.iter().position(|(_, s)| s.name.as_ref() == Some(&raw.stream));
    if stream.is_none() && streams.iter().all(|(_, s)| s.name.is_some()) {
        let known = streams.iter().filter_map(|(_, s)| s.name.as_ref()).map(Name::as_str);
        problems.push(missing(format!("route[{index}].stream"), "stream", &raw.stream, known));
    }
    Some(Route { topics: raw.topics, stream: stream?, kind: raw.kind })
}

/// What each stream may take of the disk. An event is stored once however many uplinks wait for it, so a stream never
/// takes more than one budget. Streams that name none share what is left in equal parts.
fn budgets(
    streams: &[(String, RawStream)],
    disk_max: ByteSize,
    problems: &mut Vec<Problem>,
) -> Vec<ByteSize> {
    let reserve = reserve(disk_max);
    let room = disk_max.bytes().saturating_sub(reserve.bytes());
    let given =
        streams.iter().filter_map(|(_, s)| s.max_bytes).fold(0_u64, |sum, b| sum.saturating_add(b.bytes()));
    let sharing =
        u64::try_from(streams.iter().filter(|(_, s)| s.max_bytes.is_none()).count()).unwrap_or(u64::MAX);
    let share = room.saturating_sub(given).checked_div(sharing).unwrap_or_default();
    // Whole MiB: what `status` and `check` print is then what one would write.
    let share = ByteSize::from_mib(share >> 20);
    let too_much = given > room || sharing > 0 && share < SMALLEST_STREAM;
    if too_much {
        problems.push(over_budget(streams, disk_max, reserve, given, sharing));
    }
    for (path, stream) in streams {
        if let Some(budget) = stream.max_bytes.filter(|b| *b < SMALLEST_STREAM) {
            let what = format!("must be at least {SMALLEST_STREAM}");
            problems.push(Problem::of(format!("{path}.max_bytes = \"{budget}\""), what));
        }
    }
    streams.iter().map(|(_, s)| s.max_bytes.unwrap_or(share)).collect()
}

fn over_budget(
    streams: &[(String, RawStream)],
    disk_max: ByteSize,
    reserve: ByteSize,
    given: u64,
    sharing: u64,
) -> Problem {
    let given = ByteSize::from_bytes(given);
    let rest = match sharing {
        0 => String::new(),
        _ if streams.iter().any(|(path, s)| path == DEFAULT_STREAM && s.max_bytes.is_none()) => {
            format!(
                " and {sharing} without max_bytes (among them the default stream) need at least {SMALLEST_STREAM} each"
            )
        }
        n => format!(" and {n} without max_bytes need at least {SMALLEST_STREAM} each"),
    };
    let what = format!(
        "is too small: streams ask for {given}{rest}, and {reserve} are kept for sessions, cursors and the journal"
    );
    Problem::of(format!("node.disk_max = \"{disk_max}\""), what)
}

fn finish_stream(raw: RawStream, max_bytes: ByteSize, uplinks: Vec<usize>) -> Option<Stream> {
    let RawStream { name, class, max_age, when_full, .. } = raw;
    Some(Stream { name: name?, class, max_bytes, max_age, when_full, uplinks })
}

fn uplink(raw: RawUplink, node: &Name) -> Option<Uplink> {
    let name = raw.name?;
    Some(Uplink {
        kind: raw.kind,
        http: raw.http,
        eventmesh: raw.eventmesh,
        addresses: raw.addresses,
        tls: raw.tls,
        credentials: raw.credentials,
        // With the uplink's name in it: two uplinks to one broker must not take over each other's connection [MQTT-3.1.4-3].
        client_id: raw.client_id.unwrap_or_else(|| format!("{node}-{name}")),
        mode: raw.mode,
        order: raw.order,
        topic: raw.topic,
        subscribe: raw.subscribe,
        subscribe_strip: raw.subscribe_strip,
        subscribe_prefix: raw.subscribe_prefix,
        session_expiry: raw.session_expiry,
        name,
        window_events: raw.window_events,
        window_bytes: raw.window_bytes,
        connect_timeout: raw.timing.connect_timeout,
        answer_timeout: raw.timing.answer_timeout,
        keep_alive: raw.keep_alive,
        retry_min: raw.timing.retry_min,
        retry_max: raw.timing.retry_max,
    })
}

/// What works but may not be meant.
pub(crate) fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    for (index, listener) in config.listeners.iter().enumerate() {
        listener_warning(index, listener, &mut warnings);
    }
    if config.listeners.is_empty() {
        warnings.push("no listener configured: no device can connect, add [[listener]]".to_owned());
    }
    if config.uplinks.is_empty() {
        warnings.push("no uplink configured: events are stored and wait, add [[uplink]]".to_owned());
    }
    for (index, stream) in config.streams.iter().enumerate() {
        stream_warning(config, index, stream, &mut warnings);
    }
    for uplink in &config.uplinks {
        uplink_warning(uplink, &mut warnings);
    }
    warnings
}

fn listener_warning(index: usize, listener: &Listener, warnings: &mut Vec<String>) {
    if !is_reachable(listener) {
        return;
    }
    let bind = listener.bind;
    match (&listener.auth, &listener.tls) {
        // With client_ca a certificate is proof enough.
        (Auth::Anonymous, Some(ListenerTls { client_ca: Some(_), .. })) => {}
        (Auth::Anonymous, _) => warnings.push(format!(
            "listener[{index}] lets anybody in who reaches {bind}: set auth = \"password\" unless that network is closed"
        )),
        (Auth::Password { .. }, None) => warnings.push(format!(
            "listener[{index}] takes passwords in clear text at {bind}: give it tls = {{ cert, key }}"
        )),
        (Auth::Password { .. }, Some(_)) => {}
    }
}

fn stream_warning(config: &Config, index: usize, stream: &Stream, warnings: &mut Vec<String>) {
    let name = &stream.name;
    if name.as_str() == NODE_STREAM {
        return;
    }
    let fed = config.routes.iter().any(|r| r.stream == index)
        || index == 0 && config.node.unrouted == Unrouted::Default;
    if !fed && index != 0 {
        warnings.push(format!("stream \"{name}\" takes nothing: no [[route]] names it"));
    } else if fed && stream.uplinks.is_empty() && !config.uplinks.is_empty() {
        warnings.push(format!(
            "stream \"{name}\" has no uplink: its events are stored and wait until max_bytes or max_age"
        ));
    }
}

fn uplink_warning(uplink: &Uplink, warnings: &mut Vec<String>) {
    let has_password = matches!(&uplink.credentials, Some(Credentials { password: Some(_), .. }));
    let remote = uplink.addresses.iter().find(|a| !is_local(&a.host));
    if let (true, None, Some(address)) = (has_password, &uplink.tls, remote) {
        warnings.push(format!(
            "uplink \"{}\" sends its password in clear text to {address}: add tls = {{}}",
            uplink.name
        ));
    }
}

fn is_local(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
