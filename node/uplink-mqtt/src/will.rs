//! The will of each connection: the node's death event (docs/node-events.md), if the server takes one.

use crate::options::{Mode, Options};
use crate::topic::Template;
use bytes::Bytes;
use eventmesh_edge_core::mapping::{LoopGuard, VIA_PROPERTY};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, LastWill, LastWillProperties};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Where a session is kept, a connection that comes back within this time was no death (MQTT 5.0 section 3.1.3.2.2).
const DELAY_S: u32 = 10;

/// What is remembered between the connections of an uplink.
#[derive(Debug, Default)]
pub(crate) struct Wills {
    connections: AtomicU64,
    left_out: AtomicBool,
}

impl Wills {
    /// The will of the next connection.
    pub(crate) fn next(&self, options: &Options, template: &Template, guard: &LoopGuard) -> Option<LastWill> {
        let testament = options.testament.as_ref().filter(|_| !self.left_out.load(Relaxed))?;
        let connection = self.connections.fetch_add(1, Relaxed) + 1;
        let message = testament.message(connection, options.mode == Mode::Structured);
        let mut topic = String::new();
        template.render(testament.topic(), &mut topic);
        let user = message.user.into_iter().map(|(name, value)| (name.to_owned(), value.to_string()));
        let via = (VIA_PROPERTY.to_owned(), guard.stamp(None).into_owned());
        let properties = LastWillProperties {
            delay_interval: (!options.subscriptions.is_empty()).then_some(DELAY_S),
            payload_format_indicator: Some(1),
            message_expiry_interval: None,
            content_type: Some(message.content_type.to_owned()),
            response_topic: None,
            correlation_data: None,
            user_properties: user.chain([via]).collect(),
        };
        Some(LastWill {
            topic: Bytes::from(topic),
            message: Bytes::from(message.payload),
            qos: QoS::AtLeastOnce,
            // The last word about the node's state stands where the others were retained.
            retain: options.keep_retain,
            properties: Some(properties),
        })
    }

    /// Takes the server's answer. A refusal that may be about the will gets the next connection without it, or, if it
    /// had none, with it again: it was about something else.
    pub(crate) fn answered(&self, options: &Options, code: ConnectReturnCode) {
        use ConnectReturnCode as C;
        let may_be_about_it = matches!(
            code,
            C::NotAuthorized
                | C::TopicNameInvalid
                | C::QuotaExceeded
                | C::PayloadFormatInvalid
                | C::RetainNotSupported
                | C::QoSNotSupported
        );
        if options.testament.is_some() && may_be_about_it {
            self.left_out.fetch_xor(true, Relaxed);
        }
    }
}
