//! What happens to clients, told as events below `$edge/clients`: for local subscribers, and for whatever route names them.

use super::DATA_TYPE;
use crate::Text;
use crate::event::{Event, Properties, Qos, Timestamp, Via};
use crate::mapping::{format_rfc3339, path_segment};
use bytes::Bytes;
use serde_json::{Value, json};

/// Filters told of one SUBSCRIBE or UNSUBSCRIBE; how many more there were is said (P5).
const FILTERS_MAX: usize = 64;

/// What happened to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientEvent<'a> {
    /// It was let in.
    Connected {
        /// `MQTT 5.0` and the like.
        protocol: &'static str,
        /// Who it is, if it has shown that.
        user: Option<&'a str>,
        /// It asked for a session without a past.
        clean_start: bool,
        /// It got one with a past.
        session_present: bool,
        /// How long it may be silent; 0 for ever.
        keep_alive_s: u16,
        /// How long its session outlives the connection.
        session_expiry_s: u32,
    },
    /// Its connection ended.
    Disconnected {
        /// Why.
        reason: &'static str,
    },
    /// Subscriptions were made or replaced; each with the QoS granted.
    Subscribed(Vec<(Text, u8)>),
    /// Subscriptions were removed.
    Unsubscribed(Vec<Text>),
}

impl ClientEvent<'_> {
    /// Last level of the topic, last word of the `type`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            ClientEvent::Connected { .. } => "connected",
            ClientEvent::Disconnected { .. } => "disconnected",
            ClientEvent::Subscribed(_) => "subscribed",
            ClientEvent::Unsubscribed(_) => "unsubscribed",
        }
    }

    /// `$edge/clients/<client id>/<name>`; the client id percent-encoded, so that it is one level.
    #[must_use]
    pub fn topic(&self, client_id: &str) -> Text {
        Text::from(format!("$edge/clients/{}/{}", path_segment(client_id), self.name()))
    }

    fn data(&self, client_id: &str) -> Value {
        let mut data = match self {
            ClientEvent::Connected {
                protocol,
                user,
                clean_start,
                session_present,
                keep_alive_s,
                session_expiry_s,
            } => json!({
                "protocol": protocol, "user": user, "clean_start": clean_start, "session_present": session_present,
                "keep_alive_s": keep_alive_s, "session_expiry_s": session_expiry_s,
            }),
            ClientEvent::Disconnected { reason } => json!({ "reason": reason }),
            ClientEvent::Subscribed(filters) => {
                let told = filters.iter().take(FILTERS_MAX);
                let told = told.map(|(filter, qos)| json!({ "filter": &**filter, "qos": qos }));
                json!({ "filters": told.collect::<Vec<_>>(), "left_out": left_out(filters.len()) })
            }
            ClientEvent::Unsubscribed(filters) => {
                let told = filters.iter().take(FILTERS_MAX).map(|filter| &**filter);
                json!({ "filters": told.collect::<Vec<_>>(), "left_out": left_out(filters.len()) })
            }
        };
        if let Value::Object(fields) = &mut data {
            fields.insert("client_id".to_owned(), client_id.into());
        }
        data
    }

    /// A CloudEvent in binary mode.
    #[must_use]
    pub fn into_event(self, source: Text, id: Text, client_id: &str, now: Timestamp) -> Event {
        let time = Some(now).filter(|t| t.is_plausible());
        let kind = Text::from(format!("io.eventmesh.edge.client.{}", self.name()));
        let mut user = vec![
            (Text::from_static("specversion"), Text::from_static("1.0")),
            (Text::from_static("id"), id.clone()),
            (Text::from_static("source"), source.clone()),
            (Text::from_static("type"), kind),
            (Text::from_static("subject"), Text::from(client_id)),
        ];
        let written = time.and_then(format_rfc3339);
        user.extend(written.map(|time| (Text::from_static("time"), Text::from(time))));
        Event {
            via: Via::Node,
            qos: Qos::AtLeastOnce,
            retain: false,
            source,
            id: Some(id),
            time,
            received: now,
            expires: None,
            topic: self.topic(client_id),
            payload: Bytes::from(self.data(client_id).to_string()),
            properties: Some(Box::new(Properties {
                utf8_payload: true,
                content_type: Some(Text::from_static(DATA_TYPE)),
                user,
                ..Properties::default()
            })),
        }
    }
}

fn left_out(filters: usize) -> usize {
    filters.saturating_sub(FILTERS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_id_is_one_level_of_the_topic() {
        let gone = ClientEvent::Disconnected { reason: "keep alive timeout" };
        assert_eq!(&*gone.topic("plant/7#+é"), "$edge/clients/plant%2F7%23%2B%C3%A9/disconnected");
    }

    #[test]
    fn an_event_is_a_cloudevent_with_its_data() {
        let subscribed =
            ClientEvent::Subscribed((0..70).map(|n| (Text::from(format!("f/{n}")), 1)).collect());
        let event =
            subscribed.into_event("edge://n".into(), "id-1".into(), "a", Timestamp(1_790_000_000_000));
        let data: Value = serde_json::from_slice(&event.payload).unwrap();
        assert_eq!(data["client_id"], "a");
        assert_eq!((data["filters"].as_array().unwrap().len(), &data["left_out"]), (64, &json!(6)));
        assert_eq!(data["filters"][3], json!({ "filter": "f/3", "qos": 1 }));
        let properties = event.properties.unwrap();
        let attribute =
            |name: &str| properties.user.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string());
        assert_eq!(attribute("type").as_deref(), Some("io.eventmesh.edge.client.subscribed"));
        assert_eq!(attribute("subject").as_deref(), Some("a"));
        assert_eq!(&*event.topic, "$edge/clients/a/subscribed");
    }
}
