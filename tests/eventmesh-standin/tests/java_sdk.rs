//! The genuine Java SDK of Apache EventMesh (1.10.0) against the stand-in, and through it with our uplink: the wire is judged by code that
//! is not ours at both ends.
//!
//! Needs a JDK, Maven and the SDK from a Maven repository; where one of them cannot be had the tests say on standard error that they are
//! skipped (77, as other harnesses call it) and prove nothing.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod common;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{Driver, acked, options, outgoing_with, subscribing, until};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::Properties;
use eventmesh_edge_core::ports::uplink::Uplink;
use eventmesh_edge_standin::{StandIn, text};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// A Java machine on a busy test machine takes its time to start.
const PATIENCE: Duration = Duration::from_secs(120);

/// The class path of the compiled referee, or why there is none.
fn class_path() -> Option<&'static str> {
    static BUILT: OnceLock<Result<String, String>> = OnceLock::new();
    match BUILT.get_or_init(build) {
        Ok(path) => Some(path),
        Err(why) => {
            // Not `eprintln`, which the test runner keeps to itself.
            let mut stderr = std::io::stderr();
            stderr
                .write_all(format!("SKIPPED (77): the Java SDK against the stand-in: {why}\n").as_bytes())
                .unwrap();
            None
        }
    }
}

fn build() -> Result<String, String> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("java/pom.xml");
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("referee");
    let list = target.join("class-path");
    let output = std::process::Command::new("mvn")
        .args(["-q", "-B", "-f"])
        .arg(project)
        .arg(format!("-Dreferee.target={}", target.display()))
        .args(["compile", "dependency:build-classpath"])
        .arg(format!("-Dmdep.outputFile={}", list.display()))
        .output()
        .map_err(|error| format!("mvn: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout);
        let error = said.lines().find(|line| line.contains("ERROR")).unwrap_or("no reason given").to_owned();
        // What does not compile is our mistake; what cannot be had is the machine's.
        assert!(!error.contains("COMPILATION"), "{said}");
        return Err(format!("mvn could not build it: {error}"));
    }
    let list = std::fs::read_to_string(&list).map_err(|error| error.to_string())?;
    Ok(format!("{}:{}", target.join("classes").display(), list.trim()))
}

/// A running referee; killed when dropped.
struct Referee {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Referee {
    fn start(class_path: &str, words: &[&str]) -> Referee {
        let mut child = Command::new("java")
            .args(["-cp", class_path, "Referee"])
            .args(words)
            // The SDK writes its log where it is started.
            .current_dir(env!("CARGO_TARGET_TMPDIR"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Referee { _child: child, lines }
    }

    /// The next thing it says; the SDK's own log is not it.
    async fn says(&mut self) -> String {
        loop {
            let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await.unwrap().unwrap();
            let line = line.expect("it has said all that it had to say");
            if let Some(said) = line.strip_prefix("referee: ") {
                return said.to_owned();
            }
        }
    }
}

fn with(content_type: &str) -> Properties {
    let user = vec![(Text::from_static("site"), Text::from_static("north"))];
    Properties { content_type: Some(Text::from(content_type.to_owned())), user, ..Properties::default() }
}

#[tokio::test]
async fn what_we_publish_the_genuine_consumer_gets_whole() {
    let Some(class_path) = class_path() else { return };
    let standin = StandIn::start();
    standin.only_subscribed_topics();
    let port = standin.addr().port().to_string();
    let events = [
        outgoing_with(1, "{\"a\":1}", Some(with("application/json"))),
        outgoing_with(2, "plain", Some(with("text/plain"))),
        outgoing_with(3, &b"\x00\xff\x01"[..], Some(with("application/octet-stream"))),
        outgoing_with(4, "{}", Some(with("application/json; charset=utf-8"))),
        outgoing_with(5, "", Some(with("text/plain"))),
        outgoing_with(6, "no properties at all", None),
    ];
    let mut referee = Referee::start(class_path, &["subscribe", &port, "eventmesh-edge", "6"]);
    assert_eq!(referee.says().await, "subscribed");
    until(&standin, |s| !s.clients().is_empty()).await;
    let mut driver = Driver::new(options(&[standin.addr()]));
    driver.up().await;
    let ids: Vec<String> = events.iter().map(|e| e.event.id().to_string()).collect();
    assert_eq!(acked(&driver.deliver(events).await).len(), 6);
    let mut seen = Vec::new();
    for _ in 0..6 {
        seen.push(referee.says().await);
    }
    assert_eq!(referee.says().await, "done");
    seen.sort();
    let line = |id: &String, content_type: &str, data: &[u8]| {
        format!(
            "event {id} mqtt://plant-7/sensor-12 com.example.t.v1 {content_type} plant/7/temp {}",
            STANDARD.encode(data)
        )
    };
    let mut expected = [
        line(&ids[0], "application/json", b"{\"a\":1}"),
        line(&ids[1], "text/plain", b"plain"),
        line(&ids[2], "application/octet-stream", b"\x00\xff\x01"),
        line(&ids[3], "application/json; charset=utf-8", b"{}"),
        // The convention for no data, which the consumer's side undoes.
        line(&ids[4], "application/octet-stream", b"\0"),
        line(&ids[5], "application/octet-stream", b"no properties at all"),
    ];
    expected.sort();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn what_the_genuine_producer_publishes_comes_down_whole() {
    let Some(class_path) = class_path() else { return };
    let standin = StandIn::start();
    standin.only_subscribed_topics();
    let mut driver = Driver::new(subscribing(&[standin.addr()]));
    driver.up().await;
    driver.while_waiting(until(&standin, |s| !s.clients().is_empty())).await;
    let port = standin.addr().port().to_string();
    let mut referee = Referee::start(class_path, &["publish", &port, "commands", "20", "2", "30"]);
    let mut ids = Vec::new();
    while ids.len() < 20 {
        let message = driver.downward().await;
        driver.uplink.confirm(message.token);
        assert_eq!(&*message.topic, "valve/1/set");
        assert_eq!(&message.payload[..], b"{\"pad\":\"xxxxxxxxxxxxxxxxxxxx\"}");
        let (source, id) = message.identity.unwrap();
        assert_eq!(&*source, "/cloud/java");
        ids.push(id.to_string());
    }
    ids.sort();
    let mut expected: Vec<String> = (0..20).map(|n| format!("java-{n}")).collect();
    expected.sort();
    assert_eq!(ids, expected);
    let done = driver.while_waiting(referee.says()).await;
    assert!(done.starts_with("done 20 "), "{done}");
    // The receipts of all of them went up to where nobody listens, and are held; the events are there.
    assert_eq!(standin.stored().iter().filter(|e| text(e, "subject") == Some("commands")).count(), 20);
}
