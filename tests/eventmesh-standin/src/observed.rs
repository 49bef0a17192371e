//! `data/observed.jsonl`: exact traffic of runtime 1.11 on gRPC, recorded once.

use serde_json::Value;

/// The recording.
pub const RECORDING: &str = include_str!("../data/observed.jsonl");

/// One recorded message.
#[derive(Clone, Debug)]
pub struct Record {
    /// Which exchange it belongs to.
    pub case: String,
    /// gRPC method, without the service.
    pub method: String,
    /// True from client to server.
    pub to_server: bool,
    /// The line itself.
    pub line: Value,
}

/// The gRPC part of the recording, in order.
///
/// # Panics
/// If the recording is damaged.
#[must_use]
pub fn records() -> Vec<Record> {
    let lines = RECORDING
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("the recording is JSON lines"));
    let record = |line: Value| {
        let get = |key: &str| line.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (case, method, dir) = (get("case"), get("method"), get("dir"));
        let method = method.rsplit('/').next().unwrap_or_default().to_owned();
        Record { case, method, to_server: dir == "c2s", line }
    };
    lines.filter(|line| line.get("transport").and_then(Value::as_str) == Some("grpc")).map(record).collect()
}
