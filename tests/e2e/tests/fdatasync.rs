//! P1, shown by system calls: between the write of a commit to the journal and the PUBACK for it, fdatasync of the journal
//! returned. The node runs under strace; every message carries a marker that is found again in the trace.

#![allow(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may stop on a surprise"
)]

use eventmesh_edge_e2e::node::Node;
use eventmesh_edge_e2e::raw::RawClient;
use eventmesh_edge_e2e::tools::foreign;
use eventmesh_edge_e2e::{Result, eventually};

const MESSAGES: u64 = 25;

#[tokio::test]
async fn fdatasync_returns_between_each_commit_and_its_puback() -> Result {
    let Some(strace) = foreign("strace", "fdatasync") else { return Ok(()) };
    let trace = tempfile::NamedTempFile::new()?;
    let out = trace.path().display().to_string();
    let watched = "trace=pwrite64,write,writev,sendto,sendmsg,fdatasync,fsync,openat,close,recvfrom,read";
    let wrapper = [
        strace.display().to_string(),
        "-f".into(),
        "-s".into(),
        "400".into(),
        "-o".into(),
        out,
        "-e".into(),
        watched.into(),
    ];
    let mut node = Node::start_under(&wrapper, "").await?;
    let mut client = RawClient::new("traced", node.mqtt());
    client.connect().await?;
    for n in 0..MESSAGES {
        client.publish("traced/topic", format!("marker-{n:04}-end").into_bytes()).await?;
        client.settle_all().await?;
    }
    node.stop().await?;
    let text = eventually("strace has written its trace", async || {
        std::fs::read_to_string(trace.path())
            .ok()
            .filter(|t| t.contains("marker-0024-end") && t.contains("+++ exited"))
    })
    .await?;
    let calls = calls(&text);
    for n in 0..MESSAGES {
        check(&calls, n)?;
    }
    println!("fdatasync: {MESSAGES} messages, each with its own fdatasync between pwrite64 and PUBACK");
    Ok(())
}

/// One system call that has returned, in the order of returning; strace splits calls that others overtake.
#[derive(Debug)]
struct Call {
    thread: String,
    /// Name and arguments, the two halves put together again.
    text: String,
    result: i64,
}

fn calls(trace: &str) -> Vec<Call> {
    let mut unfinished = std::collections::HashMap::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(start) = rest.strip_suffix(" <unfinished ...>") {
            unfinished.insert(thread.to_owned(), start.to_owned());
            continue;
        }
        let text = match rest.split_once(" resumed>") {
            Some((_, end)) if rest.starts_with("<... ") => {
                unfinished.remove(thread).unwrap_or_default() + end
            }
            _ => rest.to_owned(),
        };
        let Some((call, result)) = text.rsplit_once(" = ") else { continue };
        let result = result.split(' ').next().and_then(|r| r.parse().ok()).unwrap_or(-1);
        calls.push(Call { thread: thread.to_owned(), text: call.to_owned(), result });
    }
    calls
}

/// The file descriptor a call is about: its first argument.
fn descriptor(call: &Call) -> &str {
    call.text.split_once('(').and_then(|(_, a)| a.split([',', ')']).next()).unwrap_or("").trim()
}

fn check(calls: &[Call], n: u64) -> Result {
    let marker = format!("marker-{n:04}-end");
    let written = calls
        .iter()
        .position(|c| c.text.starts_with("pwrite64(") && c.text.contains(&marker) && c.result > 0)
        .ok_or_else(|| format!("{marker} was never written to the journal"))?;
    let journal = descriptor(&calls[written]).to_owned();
    // Packet identifiers count from 1: `\0\1` is printed by strace as `\0\1`, the octal forms of both bytes.
    let puback = format!("\"@\\2\\0{}\"", octal(u8::try_from(n + 1).expect("few messages")));
    let answered = calls
        .iter()
        .enumerate()
        .skip(written)
        .find(|(_, c)| is_write(c) && c.text.contains(&puback))
        .map(|(at, _)| at)
        .ok_or_else(|| format!("no PUBACK {puback} after {marker} was written"))?;
    let before = calls[..written].iter().any(|c| is_write(c) && c.text.contains(&puback));
    assert!(!before, "P1: {marker} was answered before it was written");
    let synced = calls[written..answered]
        .iter()
        .any(|c| c.text.starts_with("fdatasync(") && descriptor(c) == journal && c.result == 0);
    assert!(
        synced,
        "P1: no fdatasync({journal}) between the write of {marker} and its PUBACK (thread {})",
        calls[written].thread
    );
    Ok(())
}

fn is_write(call: &Call) -> bool {
    ["write(", "writev(", "sendto(", "sendmsg("].iter().any(|w| call.text.starts_with(w)) && call.result > 0
}

/// As strace prints a byte inside a string when no digit follows.
fn octal(byte: u8) -> String {
    match byte {
        b'\t' => "\\t".into(),
        b'\n' => "\\n".into(),
        b'\r' => "\\r".into(),
        0x0b => "\\v".into(),
        0x0c => "\\f".into(),
        0x20..=0x7e => char::from(byte).to_string(),
        _ => format!("\\{byte:o}"),
    }
}
