//! The auditor: a rumqttc MQTT 5 subscriber at the upstream hub that writes down every CloudEvent it gets.

use crate::Result;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// One CloudEvent in binary mode, as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// MQTT topic.
    pub topic: String,
    /// User Properties: the CloudEvents attributes.
    pub attributes: Vec<(String, String)>,
    /// Content Type.
    pub content_type: Option<String>,
    /// Data.
    pub payload: Vec<u8>,
}

impl Received {
    /// An attribute's value, empty if it is not there.
    #[must_use]
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }

    /// Whether a node says it about itself (docs/node-events.md).
    #[must_use]
    pub fn is_about_a_node(&self) -> bool {
        self.attribute("source").starts_with("edge://")
    }

    /// `source` and `id`: what makes two events the same one.
    #[must_use]
    pub fn identity(&self) -> (String, String) {
        (self.attribute("source").to_owned(), self.attribute("id").to_owned())
    }
}

/// The subscriber; ends when dropped.
pub struct Auditor {
    seen: Arc<Mutex<Vec<Received>>>,
    of_nodes: Arc<Mutex<Vec<Received>>>,
    ended: Arc<Mutex<Option<String>>>,
    task: JoinHandle<()>,
}

impl Auditor {
    /// Subscribes to `filter` at `hub` and returns once the SUBACK is there.
    ///
    /// # Errors
    /// If the hub does not answer.
    pub async fn start(hub: SocketAddr, filter: &str) -> Result<Auditor> {
        let mut options = MqttOptions::new("auditor", hub.ip().to_string(), hub.port());
        options.set_keep_alive(Duration::from_secs(30));
        options.set_max_packet_size(Some(2 << 20));
        let (client, mut events) = AsyncClient::new(options, 64);
        client.subscribe(filter, QoS::AtLeastOnce).await?;
        loop {
            if let Event::Incoming(Packet::SubAck(_)) = events.poll().await? {
                break;
            }
        }
        let seen = Arc::new(Mutex::new(Vec::new()));
        let ended = Arc::new(Mutex::new(None));
        let of_nodes = Arc::new(Mutex::new(Vec::new()));
        let (book, nodes, end) = (Arc::clone(&seen), Arc::clone(&of_nodes), Arc::clone(&ended));
        let task = tokio::spawn(async move {
            let _keep = client;
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let received = received(publish);
                        let book = if received.is_about_a_node() { &nodes } else { &book };
                        book.lock().unwrap_or_else(PoisonError::into_inner).push(received);
                    }
                    Ok(_) => {}
                    // A hub that drops its subscriber keeps nothing for it: what follows is lost to the audit, not to us.
                    Err(error) => {
                        *end.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
                        return;
                    }
                }
            }
        });
        Ok(Auditor { seen, of_nodes, ended, task })
    }

    /// Whether it still listens; if not, why.
    #[must_use]
    pub fn state(&self) -> String {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.as_ref().map_or_else(|| "listens".to_owned(), |why| format!("lost its connection: {why}"))
    }

    /// What nodes said about themselves so far, in order.
    pub fn of_nodes(&self) -> MutexGuard<'_, Vec<Received>> {
        self.of_nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What came so far of devices, in order.
    pub fn seen(&self) -> MutexGuard<'_, Vec<Received>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Auditor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn received(publish: Publish) -> Received {
    let properties = publish.properties.unwrap_or_default();
    Received {
        topic: String::from_utf8_lossy(&publish.topic).into_owned(),
        attributes: properties.user_properties,
        content_type: properties.content_type,
        payload: publish.payload.to_vec(),
    }
}
