//! `eventmesh-edge store` as an operator meets it: a stopped node, a running one, damage, and what is no store.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

fn edge(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eventmesh-edge"));
    command.current_dir(dir).args(args).stdin(Stdio::null());
    command
}

/// Exit code, standard output, standard error.
fn run(dir: &Path, args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = edge(dir, args).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn json(dir: &Path, args: &[&str]) -> (i32, Value) {
    let (code, out, errors) = run(dir, args);
    (code, serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{errors}")))
}

/// A node that devices can talk to; killed when dropped.
struct Node {
    child: Child,
    address: SocketAddr,
}

impl Node {
    fn start(dir: &Path) -> Node {
        let mut command = edge(dir, &["run", "--listen", "127.0.0.1:0"]);
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line)));
        });
        let address = loop {
            let line = lines.recv_timeout(PATIENCE).expect("the node starts");
            if let Some(url) = line.split("mqtt://").nth(1).filter(|_| line.contains(" ready ")) {
                break url.split(' ').next().unwrap().parse().unwrap();
            }
        };
        Node { child, address }
    }

    fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }

    /// QoS 1 PUBLISHes of numbers to `plant/<n % 3>`, each awaited.
    fn publish(&self, numbers: std::ops::Range<u16>) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01a").unwrap();
        stream.read_exact(&mut [0; 4]).unwrap();
        for n in numbers {
            let (topic, payload) = (format!("plant/{}", n % 3), format!("{{\"n\":{n}}}"));
            let mut packet = vec![0x32, u8::try_from(4 + topic.len() + payload.len()).unwrap(), 0];
            packet.push(u8::try_from(topic.len()).unwrap());
            packet.extend_from_slice(topic.as_bytes());
            packet.extend_from_slice(&(n + 1).to_be_bytes());
            packet.extend_from_slice(payload.as_bytes());
            stream.write_all(&packet).unwrap();
            stream.read_exact(&mut [0; 4]).unwrap();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

/// A stopped node's directory with twelve events in `data`.
fn stopped() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    node.publish(0..12);
    node.stop();
    dir
}

/// The segment that holds the events, and where they are in it.
fn segment_with(dir: &Path, needle: &[u8]) -> (PathBuf, usize) {
    let mut found = None;
    for entry in fs::read_dir(dir.join("data/journal")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
            found = Some((path, at));
        }
    }
    found.expect("the events are in the journal")
}

#[test]
fn a_stopped_store_is_verified_listed_and_described() {
    let dir = stopped();
    let (code, told, errors) = run(dir.path(), &["store", "verify"]);
    assert_eq!(code, 0, "{told}{errors}");
    assert!(told.ends_with("sound\n") && told.contains("12 events"), "{told}");
    assert!(errors.contains("verify: "), "plain lines where no terminal is: {errors}");
    assert_eq!(run(dir.path(), &["store", "verify", "--quiet"]).2, "");
    let (code, verdict) = json(dir.path(), &["store", "verify", "--json", "-q"]);
    assert_eq!((code, &verdict["sound"], &verdict["events"]), (0, &Value::from(true), &Value::from(12)));

    let (code, stats) = json(dir.path(), &["store", "stats", "--json"]);
    assert_eq!(code, 0);
    let stream = &stats["streams"][0];
    assert_eq!((&stream["name"], &stream["events"]), (&Value::from("default"), &Value::from(12)));
    assert_eq!(stream["consumers"][0]["events"], 12);
    assert_eq!(stats["running"], false);
    let (_, told, _) = run(dir.path(), &["store", "stats"]);
    assert!(told.contains("stream default: 12 events") && told.contains("disk journal: "), "{told}");

    let (code, list, _) = run(dir.path(), &["store", "dump", "--topic", "plant/1"]);
    assert_eq!((code, list.lines().count()), (0, 4), "{list}");
    assert!(!list.contains("\"n\""), "no payload unless it is asked for: {list}");
    let first: Vec<&str> = list.lines().next().unwrap().split('\t').collect();
    assert_eq!((first[0], first[1], first[4]), ("default", "1.2", "plant/1"));
    let (_, list, _) =
        run(dir.path(), &["store", "dump", "--payload", "--json", "--from", "1.4", "--to", "1.6"]);
    let rows: Vec<Value> = list.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 3);
    assert_eq!((&rows[0]["position"], &rows[0]["payload"]), (&Value::from("1.4"), &Value::from("{\"n\":3}")));
    assert_eq!(run(dir.path(), &["store", "dump", "-n", "2"]).1.lines().count(), 2);
}

#[test]
fn an_export_goes_into_another_node_and_comes_out_the_same() {
    let dir = stopped();
    let (code, told, errors) =
        run(dir.path(), &["store", "export", "-q", "-o", "part.jsonl", "--to", "1.5", "--json"]);
    assert_eq!(code, 0, "{errors}");
    let summary: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&summary["events"], &summary["next"]), (&Value::from(5), &Value::from("1.6")));
    // Not over a file that is there; appended to it, the rest follows.
    assert_eq!(run(dir.path(), &["store", "export", "-o", "part.jsonl"]).0, 2);
    let (code, told, _) = run(
        dir.path(),
        &["store", "export", "-q", "-o", "part.jsonl", "--append", "--from", "1.6", "--json"],
    );
    assert_eq!((code, told.contains("\"events\":7")), (0, true), "{told}");
    let (_, whole, errors) = run(dir.path(), &["store", "export"]);
    assert!(errors.contains("exported 12 events") && errors.contains("go on with --from 1.13"), "{errors}");
    let lines =
        |text: &str| -> Vec<Value> { text.lines().map(|line| serde_json::from_str(line).unwrap()).collect() };
    let whole = lines(&whole);
    assert_eq!(lines(&fs::read_to_string(dir.path().join("part.jsonl")).unwrap()), whole);
    assert_eq!(whole[3]["data"]["n"], 3);

    let other = tempfile::tempdir().unwrap();
    let file = dir.path().join("part.jsonl").display().to_string();
    let (code, told, errors) = run(other.path(), &["store", "import", "--dry-run", &file]);
    assert_eq!(
        (code, told.as_str()),
        (0, "would import 12 events of 12 lines, 0 duplicates left out\n"),
        "{errors}"
    );
    assert!(!other.path().join("data").exists(), "a dry run writes nothing");
    let (code, told, errors) = run(other.path(), &["store", "import", "-q", &file, "--json"]);
    assert_eq!(code, 0, "{errors}");
    assert_eq!(serde_json::from_str::<Value>(&told).unwrap()["events"], 12);
    let (_, again, _) = run(other.path(), &["store", "export", "-q"]);
    let placeless = |mut events: Vec<Value>| {
        events.iter_mut().for_each(|event| drop(event.as_object_mut().unwrap().remove("edgeposition")));
        events
    };
    assert_eq!(placeless(lines(&again)), placeless(whole));
    // It is a node's store: one starts with it, and the events wait for an uplink.
    let node = Node::start(other.path());
    let (_, stats) = json(other.path(), &["store", "stats", "--json"]);
    assert_eq!(
        (&stats["running"], &stats["streams"][0]["consumers"][0]["events"]),
        (&Value::from(true), &Value::from(12))
    );
    drop(node);
}

#[test]
fn an_import_stops_where_a_line_is_wrong_and_says_where() {
    let dir = tempfile::tempdir().unwrap();
    let line = |id: &str| {
        format!(
            "{{\"specversion\":\"1.0\",\"id\":\"{id}\",\"source\":\"/s\",\"type\":\"t\",\"subject\":\"a\",\"edgestream\":\"default\"}}"
        )
    };
    let write = |lines: &[String]| fs::write(dir.path().join("in"), lines.join("\n")).unwrap();
    write(&[line("1"), line("2"), line("1")]);
    let (code, _, errors) = run(dir.path(), &["store", "import", "-q", "in"]);
    assert!(code == 1 && errors.contains("line 3") && errors.contains("--duplicates skip"), "{errors}");
    assert!(!dir.path().join("data").exists(), "the file is checked before anything is written");
    let (code, told, _) = run(dir.path(), &["store", "import", "-q", "in", "--duplicates", "skip"]);
    assert_eq!(
        (code, told.as_str()),
        (0, "imported 2 events of 3 lines, positions 1.1 to 1.2, 1 duplicates left out\n")
    );
    for (bad, said) in [
        ("{\"a\":", "line 2: is not a JSON object"),
        ("{\"id\":\"1\"}", "line 2: names no topic"),
        ("{\"id\":\"1\",\"subject\":\"a\"}", "line 2: is not a CloudEvent"),
    ] {
        write(&[line("9"), bad.to_owned()]);
        let (code, _, errors) = run(dir.path(), &["store", "import", "-q", "in"]);
        assert!(code == 1 && errors.contains(said), "{said}: {errors}");
    }
    // Standard input cannot be read twice: what stands before the line that is wrong is stored, and it goes on from there.
    let piped = |text: &str, from: &str| {
        let mut command = edge(dir.path(), &["store", "import", "-q", "-", "--from-line", from]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
        (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    };
    let (code, _, errors) = piped(&[line("20"), line("21"), "{}".to_owned(), line("22")].join("\n"), "1");
    assert!(code == Some(1) && errors.contains("2 events are imported: line 3: "), "{errors}");
    let (code, told, errors) = piped(&[line("20"), line("21"), line("23"), line("22")].join("\n"), "3");
    assert!(code == Some(0) && told.starts_with("imported 2 events of 4 lines"), "{told}{errors}");
    let (code, _, errors) = piped(&[line("20"), line("20")].join("\n"), "2");
    assert!(code == Some(1) && errors.contains("was there before"), "{errors}");
    write(&[line("9").replace("default", "elsewhere")]);
    let (code, _, errors) = run(dir.path(), &["store", "import", "-q", "in"]);
    assert!(code == 1 && errors.contains("\"elsewhere\" is not in the configuration"), "{errors}");
    let (code, _, errors) = run(dir.path(), &["store", "import", "-q", "in", "--stream", "default"]);
    assert_eq!(code, 0, "{errors}");
}

#[test]
fn a_running_node_answers_and_is_not_changed() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    node.publish(0..12);
    let (code, told, errors) = run(dir.path(), &["store", "verify"]);
    assert_eq!(code, 0, "{told}{errors}");
    assert!(
        told.contains("not checked: views-a, views-b: change while the node runs")
            && told.ends_with("sound\n"),
        "{told}"
    );
    let (_, list, errors) = run(dir.path(), &["store", "dump", "--payload"]);
    assert_eq!(list.lines().count(), 12, "{errors}");
    assert!(list.contains("{\"n\":11}"), "{list}");
    let (_, lines, _) = run(dir.path(), &["store", "export", "-q", "--from", "1.11"]);
    assert_eq!(lines.lines().count(), 2, "{lines}");
    let (_, stats) = json(dir.path(), &["store", "stats", "--json"]);
    assert_eq!((&stats["running"], &stats["streams"][0]["events"]), (&Value::from(true), &Value::from(12)));
    fs::write(dir.path().join("in"), lines).unwrap();
    for args in [&["store", "repair"][..], &["store", "import", "-q", "in"]] {
        let (code, _, errors) = run(dir.path(), args);
        assert_eq!(code, 2, "{errors}");
        let pid = node.child.id().to_string();
        assert!(errors.contains("stop that node first") && errors.contains(&pid), "{errors}");
    }
    // Where it stopped, the same is there.
    node.stop();
    assert_eq!(run(dir.path(), &["store", "dump"]).1.lines().count(), 12);
}

#[test]
fn damage_is_named_by_file_and_offset_and_repaired() {
    let dir = stopped();
    let (segment, at) = segment_with(dir.path(), b"{\"n\":5}");
    let mut bytes = fs::read(&segment).unwrap();
    bytes[at] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let (code, told, errors) = run(dir.path(), &["store", "verify", "-q"]);
    assert_eq!((code, errors.as_str()), (1, ""), "{told}");
    let name = segment.file_name().unwrap().to_str().unwrap();
    let line = told.lines().find(|line| line.starts_with("DAMAGE")).unwrap();
    assert!(line.contains(&format!("journal/{name} at ")) && line.contains("up to 1 events lost"), "{line}");
    assert!(!told.contains("\"n\""), "no payload: {told}");
    let (_, verdict) = json(dir.path(), &["store", "verify", "--json", "-q"]);
    let finding = &verdict["findings"][0];
    let from = finding["offset"].as_u64().unwrap();
    assert!((from..from + finding["bytes"].as_u64().unwrap()).contains(&(at as u64)), "{finding}");
    let (code, list, errors) = run(dir.path(), &["store", "dump"]);
    assert_eq!(
        (code, list.lines().count()),
        (1, 11),
        "the rest is listed, and the end says that it is not all"
    );
    assert!(errors.contains("positions 1.6 to 1.6 cannot be read"), "{errors}");

    let before = fs::read(&segment).unwrap();
    let (code, told, _) = run(dir.path(), &["store", "repair", "--dry-run", "-q"]);
    assert!(
        code == 0
            && told.contains("would be counted in the ledger: 1 events")
            && told.ends_with("nothing was changed\n"),
        "{told}"
    );
    assert!(fs::read(&segment).unwrap() == before && !dir.path().join("data/quarantine").exists());
    let (code, told, errors) = run(dir.path(), &["store", "repair", "-q"]);
    assert!(code == 0 && told.contains("\ncounted in the ledger: 1 events"), "{told}{errors}");
    assert!(dir.path().join("data/quarantine").exists());
    let (_, stats) = json(dir.path(), &["store", "stats", "--json"]);
    let lost = &stats["ledger"][0];
    assert_eq!((&lost["reason"], &lost["events"]), (&Value::from("damaged"), &Value::from(1)));
    // Counted once, whatever starts again.
    Node::start(dir.path()).stop();
    let (_, stats) = json(dir.path(), &["store", "stats", "--json"]);
    assert_eq!(stats["ledger"][0]["events"], 1);
}

#[test]
fn what_is_no_store_is_told_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let all = ["verify", "repair", "dump", "export", "stats"];
    for command in all {
        let (code, told, errors) = run(dir.path(), &["store", command]);
        assert_eq!((code, told.as_str()), (2, ""), "{command}");
        assert!(errors.contains("holds no store") && errors.contains("--data-dir"), "{command}: {errors}");
    }
    assert!(!dir.path().join("data").exists(), "looking makes nothing");
    fs::write(dir.path().join("thesis.tex"), "x").unwrap();
    let here = dir.path().display().to_string();
    assert_eq!(run(dir.path(), &["store", "verify", "--data-dir", &here]).0, 2);
    let dir = stopped();
    fs::write(dir.path().join("data/format"), "eventmesh-edge store 99\n").unwrap();
    for command in all {
        let (code, _, errors) = run(dir.path(), &["store", command]);
        assert!(code == 2 && errors.contains("version 99"), "{command}: {errors}");
    }
    let (code, _, errors) = run(dir.path(), &["store", "dump", "--from", "seven"]);
    assert!(code == 2 && !errors.is_empty(), "{errors}");
}

#[test]
fn a_store_that_another_command_has_is_no_running_node() {
    let dir = stopped();
    let lock = fs::File::open(dir.path().join("data/lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let (code, _, errors) = run(dir.path(), &["store", "stats"]);
    assert!(code == 2 && errors.contains("in use") && errors.contains("no node answers"), "{errors}");
}

/// Only root can take an identity that may not read; everybody else runs the other tests.
#[test]
fn a_directory_that_may_not_be_read_says_as_whom_to_come() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = stopped();
    fs::set_permissions(dir.path().join("data"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // The binary may lie where nobody else may look.
    let binary = dir.path().join("edge");
    fs::copy(env!("CARGO_BIN_EXE_eventmesh-edge"), &binary).unwrap();
    let mut command = Command::new(&binary);
    command.current_dir(dir.path()).args(["store", "verify"]).uid(65_534).gid(65_534);
    // A process that another test starts holds the copy open for writing until its own exec.
    let busy = |outcome: &std::io::Result<Output>| {
        outcome.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ExecutableFileBusy)
    };
    let outcome = (0..100_000).map(|_| command.output()).find(|outcome| !busy(outcome));
    let Output { status, stderr, .. } = outcome.unwrap().unwrap();
    let errors = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(2), "{errors}");
    assert!(
        errors.contains("cannot be read by user id 65534")
            && errors.contains("as the user who runs the node"),
        "{errors}"
    );
}
