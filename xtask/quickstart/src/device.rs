//! A simulated device: publishes a reading twice a second with QoS 1, over a persistent session, and listens for commands.

use crate::balance::Balance;
use rumqttc::{AsyncClient, Event, MqttOptions, Outgoing, Packet, QoS};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

const EVERY: Duration = Duration::from_millis(500);

pub(crate) async fn run(name: &'static str, port: u16, balance: Arc<Balance>) {
    let mut options = MqttOptions::new(name, "127.0.0.1", port);
    options.set_clean_session(false).set_keep_alive(Duration::from_secs(10));
    let (client, mut events) = AsyncClient::new(options, 256);
    let publisher = tokio::spawn(publish(client.clone(), name, Arc::clone(&balance)));
    let mut books = InFlight::default();
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                if client.try_subscribe(format!("cmd/{name}"), QoS::AtLeastOnce).is_err() {
                    println!("   {name}: could not ask for its commands");
                }
            }
            Ok(Event::Incoming(Packet::Publish(command))) => {
                println!("   {name} got the command {:?}", String::from_utf8_lossy(&command.payload));
            }
            Ok(Event::Outgoing(Outgoing::Publish(packet_id))) => books.sent(packet_id),
            Ok(Event::Incoming(Packet::PubAck(ack))) => {
                if let Some(number) = books.acknowledged(ack.pkid) {
                    balance.acknowledged((name.to_owned(), number));
                }
            }
            Ok(_) => {}
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
        if publisher.is_finished() {
            return;
        }
    }
}

async fn publish(client: AsyncClient, name: &'static str, balance: Arc<Balance>) {
    for number in 0u64.. {
        let celsius = 20.0 + f64::from(u32::try_from(number % 50).unwrap_or(0)) / 10.0;
        let reading = format!(r#"{{"device":"{name}","n":{number},"celsius":{celsius:.1}}}"#);
        let topic = format!("plant/{name}/temp");
        if client.publish(topic, QoS::AtLeastOnce, false, reading).await.is_err() {
            return;
        }
        balance.published();
        tokio::time::sleep(EVERY).await;
    }
}

/// Which number travels under which packet identifier. rumqttc sends in the order of `publish`, and a resend keeps its
/// packet identifier.
#[derive(Default)]
struct InFlight {
    next: u64,
    numbers: HashMap<u16, u64>,
}

impl InFlight {
    fn sent(&mut self, packet_id: u16) {
        if let Entry::Vacant(free) = self.numbers.entry(packet_id) {
            free.insert(self.next);
            self.next += 1;
        }
    }

    fn acknowledged(&mut self, packet_id: u16) -> Option<u64> {
        self.numbers.remove(&packet_id)
    }
}
