//! [`Status`] for people.

use crate::status::{
    IngressStatus, ListenerStatus, LossStatus, Status, StreamStatus, UplinkState, UplinkStatus,
};
use std::fmt::Write;

/// The whole status as aligned text, at most about 110 columns.
#[must_use]
pub fn render(status: &Status) -> String {
    let mut out = head(status);
    section(&mut out, &["LISTENER", "CLIENTS", "LETS IN"], status.listeners.iter().map(listener).collect());
    paragraph(&mut out, "in", &status.ingress.iter().flat_map(ingress).collect::<Vec<_>>());
    section(
        &mut out,
        &["UPLINK", "STATE", "BACKLOG", "OLDEST", "RATE", "EMPTY IN", "IN FLIGHT", "DROPPED"],
        status.uplinks.iter().map(uplink).collect(),
    );
    paragraph(&mut out, "uplink", &status.uplinks.iter().filter_map(traffic).collect::<Vec<_>>());
    section(
        &mut out,
        &["STREAM", "FOR", "WAITING", "OF", "WHEN FULL"],
        status.streams.iter().flat_map(stream).collect(),
    );
    section(&mut out, &["LOST", "STREAM", "UPLINK", "BYTES"], status.losses.iter().map(loss).collect());
    paragraph(&mut out, "look at", &status.troubles());
    paragraph(&mut out, "note", &status.warnings);
    out
}

fn head(status: &Status) -> String {
    let (node, store) = (&status.node, &status.store);
    let per_sync = if store.syncs == 0 { 0.0 } else { lossy(store.events) / lossy(store.syncs) };
    format!(
        "{}  eventmesh-edge {}, pid {}, up {}\nstore  {}: {} of {}, log {} epoch {}, {} segments, {} generations\n       \
         {} events in {} commits, {} syncs ({per_sync:.1} events each), {} written\nclients  {} connected, {} persistent \
         sessions with {} messages waiting ({} of {}), {} subscriptions, {} retained\n",
        node.name,
        node.version,
        node.pid,
        time(node.uptime_s),
        node.data_dir,
        bytes(store.disk_bytes),
        bytes(store.disk_max_bytes),
        node.log_id,
        node.epoch,
        count(store.journal_segments),
        count(store.generations),
        count(store.events),
        count(store.commits),
        count(store.syncs),
        bytes(store.bytes_written),
        count(status.sessions.connected),
        count(status.sessions.persistent),
        count(status.sessions.mailbox_events),
        bytes(store.mailbox_bytes),
        bytes(store.mailboxes_max_bytes),
        count(status.sessions.subscriptions),
        count(status.sessions.retained),
    )
}

fn listener(l: &ListenerStatus) -> Vec<String> {
    let tls = if l.tls { " tls" } else { "" };
    let clients = format!("{} of {}", count(l.connected), count(l.max_connections));
    vec![format!("{}{tls} {}", l.kind, l.bind), clients, l.auth.clone()]
}

fn uplink(u: &UplinkStatus) -> Vec<String> {
    let dropped: u64 = u.dropped.values().sum();
    let reasons: Vec<String> =
        u.dropped.iter().map(|(reason, n)| format!("{reason} {}", count(*n))).collect();
    vec![
        u.name.clone(),
        if u.draining { format!("draining, {}", state(u)) } else { state(u) },
        format!("{} ({})", count(u.backlog_events), bytes(u.backlog_bytes)),
        u.oldest_s.map(time).unwrap_or_else(|| "-".to_owned()),
        format!("{:.0}/s", u.rate_per_s),
        match u.drain_in_s {
            _ if u.backlog_events == 0 => "empty".to_owned(),
            Some(s) => time(s),
            None => "-".to_owned(),
        },
        count(u.in_flight),
        if dropped == 0 { "0".to_owned() } else { reasons.join(", ") },
    ]
}

/// What came in, and what was turned away, in one or two lines.
fn ingress(i: &IngressStatus) -> Vec<String> {
    let mut lines = vec![format!(
        "{}: {} messages, {} packets, {} in, {} out, {} messages delivered",
        i.kind,
        count(i.published),
        count(i.packets_in),
        bytes(i.bytes_in),
        bytes(i.bytes_out),
        count(i.delivered),
    )];
    let refused = i.refused.iter().map(|(reason, n)| (reason.as_str(), *n));
    let others = [
        ("turned away at max_connections", i.connections_over_limit),
        ("TLS handshakes failed", i.tls_failed),
        ("bad packets", i.bad_packets),
        ("messages refused, stream full", i.refused_full),
        ("messages in a loop dropped", i.loops_dropped),
        ("not delivered, expired", i.expired),
        ("not delivered, too large for the client", i.too_large),
    ];
    let troubles = figures(refused.chain(others));
    if !troubles.is_empty() {
        lines.push(format!("{}: {} connections; {troubles}", i.kind, count(i.connections_accepted)));
    }
    let counted = figures(i.counted.iter().map(|(what, n)| (what.as_str(), *n)));
    if !counted.is_empty() {
        lines.push(format!("{}: {counted}", i.kind));
    }
    lines
}

/// What an uplink did beside its plain work; `None` if nothing.
fn traffic(u: &UplinkStatus) -> Option<String> {
    let own = [
        ("sent again", u.sent_again),
        ("refused for now", u.refused_for_now),
        ("refused for good", u.refused_for_good),
        ("came down", u.down_received),
        ("came down and not taken", u.down_dropped),
    ];
    let adapter = u.adapter.iter().map(|(name, n)| (name.as_str(), *n));
    let figures = figures(own.into_iter().chain(adapter)).replace('_', " ");
    let refusal = u.last_refusal.as_ref().map(|words| format!("last refusal: {words}"));
    let parts: Vec<String> = [figures].into_iter().filter(|text| !text.is_empty()).chain(refusal).collect();
    (!parts.is_empty()).then(|| format!("{}: {}", u.name, parts.join("; ")))
}

/// `12 bad packets, 3 sent again`: what is not zero.
fn figures<'a>(figures: impl Iterator<Item = (&'a str, u64)>) -> String {
    let shown = figures.filter(|(_, n)| *n > 0).map(|(name, n)| format!("{} {name}", count(n)));
    shown.collect::<Vec<_>>().join(", ")
}

fn state(u: &UplinkStatus) -> String {
    let since = time(u.since_s);
    let address = u.address.as_deref().map(|a| format!(" at {a}")).unwrap_or_default();
    match u.state {
        UplinkState::Up if u.is_stuck() => format!("up {since}{address}, no answers"),
        UplinkState::Up if u.backlog_events > 0 || u.in_flight > 0 => format!("up {since}{address}, moving"),
        UplinkState::Up => format!("up {since}{address}, idle"),
        UplinkState::Connecting => format!("connecting{address}"),
        UplinkState::Down => {
            let retry = u.retry_in_s.map(|s| format!(", next attempt in {}", time(s))).unwrap_or_default();
            format!("down {since}{retry}")
        }
        UplinkState::Stopped => "stopped".to_owned(),
    }
}

fn stream(s: &StreamStatus) -> Vec<Vec<String>> {
    let line = |b: &crate::status::BacklogStatus| {
        vec![
            s.name.clone(),
            b.uplink.clone().unwrap_or_else(|| "no uplink yet".to_owned()),
            format!("{} ({})", count(b.events), bytes(b.bytes)),
            bytes(s.max_bytes),
            s.when_full.clone(),
        ]
    };
    s.backlogs.iter().map(line).collect()
}

fn loss(l: &LossStatus) -> Vec<String> {
    let or_dash = |name: &Option<String>| name.clone().unwrap_or_else(|| "-".to_owned());
    vec![format!("{} {}", count(l.events), l.reason), or_dash(&l.stream), or_dash(&l.uplink), bytes(l.bytes)]
}

/// A table with its header, columns as wide as needed; nothing where there are no rows.
fn section(out: &mut String, header: &[&str], rows: Vec<Vec<String>>) {
    if rows.is_empty() {
        return;
    }
    let header: Vec<String> = header.iter().map(|h| (*h).to_owned()).collect();
    let lines: Vec<&Vec<String>> = std::iter::once(&header).chain(&rows).collect();
    let width = |column: usize| {
        lines.iter().filter_map(|l| l.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    out.push('\n');
    for line in &lines {
        let cells = line.iter().enumerate().map(|(column, cell)| format!("{cell:<w$}", w = width(column)));
        push_line(out, cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

fn paragraph(out: &mut String, label: &str, lines: &[String]) {
    if !lines.is_empty() {
        out.push('\n');
    }
    for line in lines {
        push_line(out, &format!("{label}: {line}"));
    }
}

fn push_line(out: &mut String, line: &str) {
    out.push_str(line);
    out.push('\n');
}

/// `1,234,567`
fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `12.3 MiB`
fn bytes(n: u64) -> String {
    let units = [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.into_iter().find(|(_, factor)| n >= *factor) {
        Some((unit, factor)) => {
            let mut text = String::new();
            // Writing to a String cannot fail.
            write!(text, "{:.1}", lossy(n) / lossy(factor)).unwrap_or_default();
            format!("{} {unit}", text.strip_suffix(".0").unwrap_or(&text))
        }
        None => format!("{n} B"),
    }
}

/// `3 h 12 min`, two units at most.
fn time(seconds: f64) -> String {
    let units = [("d", 86_400.0), ("h", 3_600.0), ("min", 60.0)];
    let Some(at) = units.iter().position(|(_, size)| seconds >= *size) else {
        return if seconds < 10.0 { format!("{seconds:.1} s") } else { format!("{seconds:.0} s") };
    };
    let (unit, size) = units.get(at).copied().unwrap_or(("s", 1.0));
    let (small_unit, small) = units.get(at + 1).copied().unwrap_or(("s", 1.0));
    let whole = (seconds / size).floor();
    let rest = ((seconds - whole * size) / small).floor();
    format!("{whole:.0} {unit} {rest:.0} {small_unit}")
}

/// Figures for the eye: a float is exact far beyond what anybody reads.
#[allow(clippy::cast_precision_loss, reason = "printed with one decimal")]
fn lossy(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{BacklogStatus, NodeStatus};
    use std::collections::BTreeMap;

    #[test]
    fn figures_for_people() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0, 1023, 1024, 12_897_485, 1 << 30].map(bytes),
            ["0 B", "1023 B", "1 KiB", "12.3 MiB", "1 GiB"]
        );
        assert_eq!(
            [0.25, 59.6, 61.0, 11_550.0, 200_000.0].map(time),
            ["0.2 s", "60 s", "1 min 1 s", "3 h 12 min", "2 d 7 h"]
        );
    }

    #[test]
    fn an_uplink_that_is_being_taken_away_says_so() {
        let uplink = UplinkStatus { name: "old".into(), backlog_events: 50, ..UplinkStatus::default() };
        let status = |draining| Status {
            uplinks: vec![UplinkStatus { draining, ..uplink.clone() }],
            ..Status::default()
        };
        assert!(render(&status(true)).contains("draining, connecting"), "{}", render(&status(true)));
        assert!(!render(&status(false)).contains("draining"));
    }

    #[test]
    fn every_question_has_its_answer_on_the_screen() {
        let uplink = UplinkStatus {
            name: "cloud".into(),
            state: UplinkState::Down,
            since_s: 12.0,
            cause: Some("connection refused".into()),
            retry_in_s: Some(3.0),
            backlog_events: 1_200,
            backlog_bytes: 245_760,
            oldest_s: Some(75.0),
            dropped: BTreeMap::from([("expired".into(), 7)]),
            sent_again: 3,
            adapter: BTreeMap::from([("loops_dropped".into(), 1), ("unknown_acks".into(), 0)]),
            last_refusal: Some("0x97 quota exceeded".into()),
            ..UplinkStatus::default()
        };
        let backlog =
            BacklogStatus { uplink: Some("cloud".into()), events: 1_200, bytes: 245_760, oldest_s: None };
        let stream = StreamStatus {
            name: "default".into(),
            when_full: "refuse".into(),
            max_bytes: 1 << 30,
            backlogs: vec![backlog],
            ..StreamStatus::default()
        };
        let loss = LossStatus {
            stream: Some("default".into()),
            uplink: Some("cloud".into()),
            reason: "expired".into(),
            events: 7,
            bytes: 1_400,
        };
        let status = Status {
            node: NodeStatus { name: "plant-7".into(), version: "0.1.0".into(), ..NodeStatus::default() },
            uplinks: vec![uplink],
            streams: vec![stream],
            losses: vec![loss],
            ..Status::default()
        };
        let ingress = IngressStatus {
            kind: "mqtt".into(),
            published: 1_300,
            connections_accepted: 12,
            refused: BTreeMap::from([("bad user name or password".into(), 4)]),
            bad_packets: 2,
            ..IngressStatus::default()
        };
        let coap = IngressStatus {
            kind: "coap".into(),
            published: 5,
            counted: BTreeMap::from([("duplicates".into(), 3), ("sent again".into(), 0)]),
            ..IngressStatus::default()
        };
        let status = Status { ingress: vec![ingress, coap], ..status };
        let text = render(&status);
        for part in [
            "in: mqtt: 1,300 messages,",
            "in: mqtt: 12 connections; 4 bad user name or password, 2 bad packets",
            "in: coap: 5 messages,",
            "in: coap: 3 duplicates",
            "uplink: cloud: 3 sent again, 1 loops dropped; last refusal: 0x97 quota exceeded",
            "plant-7  eventmesh-edge 0.1.0",
            "down 12 s, next attempt in 3.0 s",
            "1,200 (240 KiB)",
            "1 min 15 s",
            "expired 7",
            "look at: uplink cloud is down: connection refused",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(text.lines().all(|line| line.len() <= 120), "{text}");
    }
}
