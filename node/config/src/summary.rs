//! What a node would do with a configuration, in a few lines: for `check` and for the first lines of the log.

use crate::eventmesh::EventMesh;
use crate::http::Http;
use crate::model::{Auth, Config, Listener, NODE_STREAM, Stream, StreamWhenFull, Unrouted, Uplink};
use crate::resolve::reserve;
use crate::units::show_time;

impl Config {
    /// One line per thing that the node would do; no secrets (P7).
    #[must_use]
    pub fn summary(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "node \"{}\": stores in {}, at most {} ({} of it for sessions, cursors and the journal)",
            self.node.name,
            self.node.data_dir.display(),
            self.node.disk_max,
            reserve(self.node.disk_max),
        )];
        lines.extend(self.listeners.iter().map(listener));
        lines.extend(self.streams.iter().enumerate().map(|(index, s)| self.stream(index, s)));
        lines.extend(self.uplinks.iter().map(uplink));
        lines.push(format!("admin: {}", self.admin.socket.display()));
        lines
    }

    fn stream(&self, index: usize, stream: &Stream) -> String {
        let mut topics: Vec<&str> = self
            .routes
            .iter()
            .filter(|r| r.stream == index)
            .flat_map(|r| &r.topics)
            .map(|t| &**t.as_text())
            .collect();
        if index == 0 && self.node.unrouted == Unrouted::Default {
            topics.push("what no route takes");
        }
        if stream.name.as_str() == NODE_STREAM {
            topics.push("the node's own events");
        }
        let uplinks: Vec<&str> =
            stream.uplinks.iter().filter_map(|u| self.uplinks.get(*u)).map(|u| u.name.as_str()).collect();
        format!(
            "stream \"{}\": {} to {}; at most {}{} each, then {}",
            stream.name,
            list(&topics, "nothing"),
            list(&uplinks, "no uplink (stored, waiting)"),
            stream.max_bytes,
            stream.max_age.map(|age| format!(" and {}", show_time(age))).unwrap_or_default(),
            match stream.when_full {
                StreamWhenFull::Refuse => "senders wait",
                StreamWhenFull::DropOldest => "the oldest are dropped and counted",
            },
        )
    }
}

fn list(items: &[&str], none: &str) -> String {
    if items.is_empty() { none.to_owned() } else { items.join(", ") }
}

fn listener(listener: &Listener) -> String {
    let auth = match &listener.auth {
        Auth::Anonymous => "anybody".to_owned(),
        Auth::Password { file } => format!("those in {}", file.display()),
    };
    format!(
        "listener {}{} at {}: lets {auth} in, at most {} at a time, payloads up to {}",
        listener.kind.as_str(),
        if listener.tls.is_some() { " over TLS" } else { "" },
        listener.bind,
        listener.max_connections,
        listener.max_payload,
    )
}

fn uplink(uplink: &Uplink) -> String {
    if let Some(http) = &uplink.http {
        return http_uplink(uplink, http);
    }
    if let Some(eventmesh) = &uplink.eventmesh {
        return eventmesh_uplink(uplink, eventmesh);
    }
    let addresses: Vec<String> = uplink.addresses.iter().map(ToString::to_string).collect();
    let subscribe: Vec<&str> = uplink.subscribe.iter().map(|f| &**f.as_text()).collect();
    let down =
        if subscribe.is_empty() { String::new() } else { format!("; brings down {}", subscribe.join(", ")) };
    format!(
        "uplink \"{}\": {}{} to {}, {} CloudEvents, order {}{down}",
        uplink.name,
        uplink.kind.as_str(),
        if uplink.tls.is_some() { " over TLS" } else { "" },
        addresses.join(" or "),
        uplink.mode.as_str(),
        uplink.order.as_str(),
    )
}

fn http_uplink(uplink: &Uplink, http: &Http) -> String {
    let urls: Vec<String> = http.urls.iter().map(ToString::to_string).collect();
    let batch = match http.mode {
        crate::HttpMode::Batch => {
            format!(" of at most {} events and {}", http.batch_events, http.batch_bytes)
        }
        _ => String::new(),
    };
    format!(
        "uplink \"{}\": http to {}, {} CloudEvents{batch}, order {}, {} at a time",
        uplink.name,
        urls.join(" or "),
        http.mode.as_str(),
        uplink.order.as_str(),
        http.connections,
    )
}

fn eventmesh_uplink(uplink: &Uplink, eventmesh: &EventMesh) -> String {
    let addresses: Vec<String> = uplink.addresses.iter().map(ToString::to_string).collect();
    let down = match eventmesh.subscribe.as_slice() {
        [] => String::new(),
        topics => format!("; brings down {}", topics.join(", ")),
    };
    format!(
        "uplink \"{}\": EventMesh{} at {}, topic {}, order {}{down}",
        uplink.name,
        if uplink.tls.is_some() { " over TLS" } else { "" },
        addresses.join(" or "),
        eventmesh.topic,
        uplink.order.as_str(),
    )
}
