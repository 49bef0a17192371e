//! What one publish costs the client: the uplink's adapter, and beside it the same calls through tonic's generated client.
//!
//! `publish_bench ADDRESS uplink|tonic EVENTS WINDOW BYTES` against a stand-in in another process (`eventmesh-standin`), so that the CPU
//! time printed is the client's alone: mapping, encoding, HTTP/2, system calls, answers.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark stops on a surprise")]

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Driver, options, outgoing_with};
use eventmesh_edge_core::ports::uplink::{Uplink, UplinkEvent};
use eventmesh_edge_standin::attribute;
use eventmesh_edge_standin::proto::CloudEvent;
use eventmesh_edge_standin::proto::cloud_event::Data;
use eventmesh_edge_standin::proto::publisher_service_client::PublisherServiceClient;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let address: SocketAddr = words[0].parse().unwrap();
    let [events, window, bytes] = [2, 3, 4].map(|n| words[n].parse::<u64>().unwrap());
    let (start, cpu) = (Instant::now(), cpu());
    match words[1].as_str() {
        "uplink" => uplink(address, events, window, bytes).await,
        _ => tonic_client(address, events, window, bytes).await,
    }
    let took = start.elapsed();
    let spent = self::cpu() - cpu;
    println!(
        "{} events of {bytes} B, window {window}: {:.0}/s, {:.1} us CPU per event",
        events,
        events as f64 / took.as_secs_f64(),
        spent.as_secs_f64() * 1e6 / events as f64
    );
}

fn payload(bytes: u64) -> String {
    format!("{{\"pad\":\"{}\"}}", "x".repeat(usize::try_from(bytes).unwrap().saturating_sub(10)))
}

async fn uplink(address: SocketAddr, events: u64, window: u64, bytes: u64) {
    let mut driver = Driver::new(options(&[address]));
    driver.up().await;
    let payload = payload(bytes);
    let (mut sent, mut taken) = (0, 0);
    let mut said = Vec::new();
    while taken < events {
        while sent < events && sent - taken < window {
            sent += 1;
            driver.uplink.send(outgoing_with(sent, payload.clone(), None));
        }
        driver.uplink.next(&mut said).await;
        for event in said.drain(..) {
            assert!(matches!(event, UplinkEvent::Acked { .. }), "{event:?}");
            taken += 1;
        }
    }
    eprintln!("window at the end: {}", driver.uplink.window());
}

async fn tonic_client(address: SocketAddr, events: u64, window: u64, bytes: u64) {
    let channel =
        tonic::transport::Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let payload = payload(bytes);
    let each = (0..window).map(|n| {
        let mut client = PublisherServiceClient::new(channel.clone());
        let payload = payload.clone();
        async move {
            let mut number = n;
            while number < events {
                let answer = client.publish(event(number, &payload)).await.unwrap();
                assert_eq!(eventmesh_edge_standin::text(answer.get_ref(), "statuscode"), Some("0"));
                number += window;
            }
        }
    });
    let tasks: Vec<_> = each.map(tokio::spawn).collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// The same attributes that the uplink sends.
fn event(number: u64, payload: &str) -> CloudEvent {
    let id = format!("0000000000000007-{number}");
    let sequence = format!("{number:020}");
    let attributes = [
        ("env", "prod"),
        ("idc", "default"),
        ("ip", "127.1.113.205"),
        ("pid", "1024179216"),
        ("sys", "edge"),
        ("username", "edge"),
        ("passwd", "none"),
        ("language", "RUST"),
        ("protocoltype", "cloudevents"),
        ("protocoldesc", "grpc-cloud-event"),
        ("protocolversion", "1.0"),
        ("producergroup", "eventmesh-edge"),
        ("ttl", "4000"),
        ("subject", "eventmesh-edge"),
        ("uniqueid", &id),
        ("seqnum", &sequence),
        ("edgetopic", "plant/7/temp"),
        ("edgevia", "plant-7"),
        ("time", "2026-09-21T14:13:20Z"),
        ("recordedtime", "2026-09-21T14:13:20Z"),
        ("sequence", &sequence),
        ("edgeseq", "1"),
        ("partitionkey", "sensor-12"),
        ("edgeqos", "1"),
        ("datacontenttype", "application/json"),
    ];
    CloudEvent {
        id: id.clone(),
        source: "mqtt://plant-7/sensor-12".to_owned(),
        spec_version: "1.0".to_owned(),
        r#type: "com.example.t.v1".to_owned(),
        attributes: attributes.iter().map(|(n, v)| ((*n).to_owned(), attribute(*v))).collect(),
        data: Some(Data::TextData(payload.to_owned())),
    }
}

/// User and system time of this process so far, from Linux: ticks of 10 ms.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().map(|n| fields[*n].parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}
