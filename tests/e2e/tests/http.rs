//! MQTT in, CloudEvents over HTTP out, to receivers made of the CloudEvents project's own SDKs for Go and Python: they
//! decide what is a valid event and what it says. Through an outage of the receiver and SIGKILL of the node nothing that was
//! acknowledged may be missing.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may stop on a surprise")]

use eventmesh_edge_e2e::node::Node;
use eventmesh_edge_e2e::raw::RawClient;
use eventmesh_edge_e2e::receivers::{Receiver, Sdk, Understood};
use eventmesh_edge_e2e::tools::Random;
use eventmesh_edge_e2e::{Result, eventually};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

fn uplink(name: &str, url: &str, keys: &str) -> String {
    format!("[[uplink]]\nname = \"{name}\"\nkind = \"http\"\nurls = [\"{url}\"]\n{keys}\n")
}

/// The topic, the payload, and what a receiver must make of the payload.
const MESSAGES: [(&str, &[u8], &str); 6] = [
    ("plant/7/temp", br#"{"n":21.5,"unit":"C"}"#, "application/json"),
    ("plant/7/temp", br#"{"big":12345678901234567890123,"order":["b","a"]}"#, "application/json"),
    ("plant/7/text", b"\"just text\"", "application/json"),
    ("plant/7/raw", &[0, 1, 2, 0xff, 0xfe, 0x80], "application/octet-stream"),
    ("plant \"7\"/100%/\u{e9}\u{20ac}", b"not json {", "application/octet-stream"),
    ("plant/7/empty", b"", ""),
];

#[tokio::test]
async fn the_official_sdks_understand_every_mode_alike() -> Result {
    let mut config = String::new();
    let mut receivers = Vec::new();
    for (sdk, modes) in
        [(Sdk::Go, &["binary", "structured", "batch"][..]), (Sdk::Python, &["binary", "structured"])]
    {
        let Some(receiver) = Receiver::start(sdk).await? else { continue };
        for mode in modes {
            let keys = format!("mode = \"{mode}\"\ngzip = true\nbatch_events = 4");
            config.push_str(&uplink(&format!("{sdk:?}-{mode}"), &receiver.url(), &keys));
        }
        receivers.push((receiver, modes));
    }
    if receivers.is_empty() {
        return Ok(());
    }
    let mut node = Node::start(&config).await?;
    let mut client = RawClient::new("sensor-12", node.mqtt());
    client.connect().await?;
    for (topic, payload, _) in MESSAGES {
        client.publish(topic, payload.to_vec()).await?;
    }
    client.settle_all().await?;
    for (receiver, modes) in &receivers {
        let wanted = MESSAGES.len() * modes.len();
        eventually("all modes arrive", async || (published(receiver).len() >= wanted).then_some(()))
            .await
            .map_err(|e| format!("{e}: {:?}; {}", receiver.refused(), node.log()))?;
        assert_eq!(receiver.refused(), Vec::<String>::new());
        check_modes(&published(receiver), modes);
    }
    node.stop().await
}

/// What devices published; the node speaks of itself, too.
fn published(receiver: &Receiver) -> Vec<Understood> {
    let mut all = receiver.understood();
    all.retain(|event| event.attributes["type"] == "io.eventmesh.edge.mqtt.publish");
    if receiver.sdk() == Sdk::Go {
        // sdk-go 2.16 does not undo the percent-encoding of headers (HTTP binding section 3.1.3.2), the SDK for Python does.
        for event in all.iter_mut().filter(|event| event.mode == "binary") {
            event.attributes.values_mut().for_each(|value| *value = percent_decoded(value));
        }
    }
    all
}

fn percent_decoded(value: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = value.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| *first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Every mode says the same about every event.
fn check_modes(understood: &[Understood], modes: &[&str]) {
    // Fixed width, contiguous per source: it sorts as the device published.
    let mut by_sequence: BTreeMap<&str, Vec<&Understood>> = BTreeMap::new();
    for event in understood {
        by_sequence.entry(&event.attributes["sequence"]).or_default().push(event);
    }
    assert_eq!(by_sequence.len(), MESSAGES.len());
    for (events, (topic, _, content_type)) in by_sequence.values().zip(MESSAGES) {
        assert_eq!(events.len(), modes.len(), "{events:?}");
        let first = events[0];
        let get = |name: &str| first.attributes.get(name).map_or("", String::as_str);
        assert_eq!((get("specversion"), get("subject")), ("1.0", topic));
        assert_eq!(get("datacontenttype"), content_type);
        assert!(
            get("source").starts_with("mqtt://e2e/") && get("source").ends_with("sensor-12"),
            "{first:?}"
        );
        for name in ["sequence", "edgeseq", "time", "recordedtime", "partitionkey", "edgeqos"] {
            assert!(!get(name).is_empty(), "{name}: {first:?}");
        }
        for other in events {
            assert_eq!(other.attributes, first.attributes, "{} and {}", other.mode, first.mode);
        }
    }
}

#[tokio::test]
async fn nothing_acknowledged_is_missing_after_outages_and_sigkill() -> Result {
    let Some(mut receiver) = Receiver::start(Sdk::Go).await? else { return Ok(()) };
    let keys = "mode = \"batch\"\nretry_min = \"20 ms\"\nretry_max = \"200 ms\"\nanswer_timeout = \"2 s\"";
    let mut node = Node::start(&uplink("cloud", &receiver.url(), keys)).await?;
    let mut client = RawClient::new("d", node.mqtt());
    let mut random = Random::new(7);
    client.connect().await?;
    for round in 0..12 {
        for _ in 0..100 {
            let payload = format!("{{\"n\":{}}}", client.next_number());
            // What fails is sent again on the next connection.
            if client.publish("load/t", payload.into_bytes()).await.is_err()
                || client.settle(20).await.is_err()
            {
                break;
            }
        }
        match round % 4 {
            0 => receiver.kill().await?,
            1 => tokio::time::sleep(Duration::from_millis(random.between(0, 30))).await,
            2 => receiver.start_again().await?,
            _ => {}
        }
        if round % 2 == 1 {
            node.kill().await?;
            node.start_again().await?;
            client.set_addr(node.mqtt());
            client.connect().await?;
        }
    }
    client.settle_all().await?;
    let acknowledged: BTreeSet<u64> = client.acknowledged.iter().copied().collect();
    assert!(acknowledged.len() > 500, "{}: this was no load", acknowledged.len());
    let missing = || {
        let seen: BTreeSet<u64> = receiver.understood().iter().filter_map(number).collect();
        acknowledged.difference(&seen).count()
    };
    eventually("everything arrives", async || (missing() == 0).then_some(()))
        .await
        .map_err(|e| format!("{e}: {} missing; {}", missing(), node.log()))?;
    same_payload_per_identity(&receiver.understood());
    println!(
        "http: {} acknowledged, {} received, 0 missing",
        acknowledged.len(),
        receiver.understood().len()
    );
    node.stop().await
}

/// What comes twice comes with the same identity (P3): no identity stands for two payloads.
fn same_payload_per_identity(understood: &[Understood]) {
    let mut known: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    for event in understood {
        let identity = (event.attributes["source"].as_str(), event.attributes["id"].as_str());
        let payload = known.entry(identity).or_insert(&event.data);
        assert_eq!(*payload, event.data, "{identity:?}");
    }
}

fn number(event: &Understood) -> Option<u64> {
    use base64::Engine as _;
    let data = base64::engine::general_purpose::STANDARD.decode(&event.data).ok()?;
    serde_json::from_slice::<serde_json::Value>(&data).ok()?.get("n")?.as_u64()
}

#[tokio::test]
async fn status_says_what_is_wrong_with_a_receiver() -> Result {
    let url = "http://127.0.0.1:1/events";
    let mut node =
        Node::start(&uplink("cloud", url, "retry_min = \"20 ms\"\nretry_max = \"100 ms\"")).await?;
    let cause = eventually("the cause", async || {
        let status = node.status().ok()?;
        Some(status["uplinks"][0]["cause"].as_str()?.to_owned())
    })
    .await?;
    assert!(cause.contains(url) && cause.contains("refused"), "{cause}");
    node.stop().await
}
