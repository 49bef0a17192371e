//! The built binary as an operator meets it: starts, refusals, status, stops.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use tempfile::TempDir;

/// No step of a test takes this long; waiting ends as soon as what is waited for is there.
const PATIENCE: Duration = Duration::from_secs(60);

fn edge(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eventmesh-edge"));
    command.current_dir(dir).stdin(Stdio::null());
    command
}

fn output(dir: &Path, args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = edge(dir).args(args).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// A running node; killed when dropped.
struct Node {
    child: Child,
    lines: Receiver<String>,
    log: Vec<String>,
}

impl Node {
    fn start(command: &mut Command) -> Node {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Node { child, lines, log: Vec::new() }
    }

    /// Reads the log until a line has `text`.
    fn wait_for(&mut self, text: &str) -> String {
        loop {
            let Ok(line) = self.lines.recv_timeout(PATIENCE) else {
                panic!("no line with {text:?} in\n{}", self.log.join("\n"));
            };
            self.log.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
    }

    /// The first address of the line that says that devices are served.
    fn ready(&mut self) -> SocketAddr {
        let line = self.wait_for(" ready ");
        let address = line.split("mqtt://").nth(1).unwrap().split(' ').next().unwrap();
        address.parse().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The exit code, and the rest of the log.
    fn ended(mut self) -> (Option<i32>, String) {
        self.log.extend(self.lines.iter());
        (self.child.wait().unwrap().code(), self.log.join("\n"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

fn scratch() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// MQTT 3.1.1 CONNECT with a clean session and no user, and the return code of the answer.
fn connect(address: SocketAddr) -> u8 {
    connected(address).1
}

fn connected(address: SocketAddr) -> (TcpStream, u8) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01a").unwrap();
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).unwrap();
    assert_eq!(connack[..2], [0x20, 2]);
    (stream, connack[3])
}

/// QoS 1 PUBLISH of `x` to `t`, until its PUBACK is there.
fn publish(address: SocketAddr) {
    let (mut stream, _) = connected(address);
    stream.write_all(b"\x32\x06\x00\x01t\x00\x07x").unwrap();
    let mut puback = [0; 4];
    stream.read_exact(&mut puback).unwrap();
    assert_eq!(puback, [0x40, 2, 0, 7]);
}

fn status(dir: &Path) -> serde_json::Value {
    let (_, json, errors) = output(dir, &["status", "--json"]);
    serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}{errors}"))
}

const FIVE_MISTAKES: &str = r#"
[node]
disk_max = 4

[[listener]]
bind = "1883"

[[uplink]]
name = "cloud"
adress = ["broker:1883"]

[log]
level = "loud"
colour = true
"#;

#[test]
fn no_file_at_all_works() {
    let dir = scratch();
    let mut node = Node::start(edge(dir.path()).args(["run", "--listen", "127.0.0.1:0"]));
    let address = node.ready();
    assert_eq!(connect(address), 0);
    assert!(dir.path().join("data").is_dir());
    let log = node.log.join("\n");
    assert!(log.contains("no uplink configured: events are stored and wait, add [[uplink]]"), "{log}");
    assert!(log.contains("RLIMIT_NOFILE"), "{log}");
}

#[test]
fn five_mistakes_give_five_lines() {
    let dir = scratch();
    std::fs::write(dir.path().join("node.toml"), FIVE_MISTAKES).unwrap();
    let (run, _, told_by_run) = output(dir.path(), &["run", "--config", "node.toml"]);
    let (check, _, told_by_check) = output(dir.path(), &["check", "--config", "node.toml"]);
    assert_eq!((run, check), (2, 1));
    assert_eq!(told_by_run, told_by_check);
    let lines: Vec<&str> = told_by_check.lines().collect();
    assert_eq!(lines.len(), 5, "{told_by_check}");
    assert!(lines.iter().all(|line| line.starts_with("node.toml:")), "{told_by_check}");
    assert!(!dir.path().join("data").exists(), "nothing is opened before the file is right");
}

#[test]
fn check_says_what_a_file_would_do() {
    let dir = scratch();
    let minimal = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/minimal.toml");
    let (code, told, errors) = output(dir.path(), &["check", "--config", minimal]);
    assert_eq!((code, errors.as_str()), (0, ""));
    for part in
        ["node \"plant-7\"", "listener mqtt at 127.0.0.1:1883", "uplink \"cloud\": mqtt to 127.0.0.1:11883"]
    {
        assert!(told.contains(part), "{part} is missing in\n{told}");
    }
    let (code, _, errors) = output(dir.path(), &["check", "--config", "nowhere.toml"]);
    assert_eq!(code, 2);
    assert!(errors.starts_with("read nowhere.toml: "), "{errors}");
}

#[test]
fn status_answers_for_a_running_node() {
    let dir = scratch();
    let mut node = Node::start(edge(dir.path()).args(["run", "--listen", "127.0.0.1:0"]));
    let address = node.ready();
    let status = status(dir.path());
    assert_eq!(status["node"]["name"], "edge");
    assert_eq!(status["node"]["pid"], node.child.id());
    assert_eq!(status["listeners"][0]["bind"], address.to_string());
    assert_eq!(status["streams"][0]["name"], "default");
    let (code, table, _) = output(dir.path(), &["status", "--data-dir", "data"]);
    assert_eq!(code, 0);
    assert!(table.contains(&address.to_string()), "{table}");
}

#[test]
fn an_uplink_that_is_down_needs_a_look() {
    let dir = scratch();
    // A port that was free a moment ago and where nobody listens now.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let file = format!(
        "[[listener]]\nbind = \"127.0.0.1:0\"\n[[uplink]]\nname = \"up\"\naddresses = [\"{nobody}\"]\n"
    );
    std::fs::write(dir.path().join("node.toml"), file).unwrap();
    let mut node = Node::start(edge(dir.path()).args(["run", "--config", "node.toml"]));
    node.ready();
    node.wait_for("refused");
    let (code, table, _) = output(dir.path(), &["status"]);
    assert_eq!(code, 3, "{table}");
    assert!(table.contains("look at: uplink up is down: "), "{table}");
}

#[test]
fn status_without_a_node_says_what_to_do() {
    let dir = scratch();
    let (code, told, errors) = output(dir.path(), &["status"]);
    assert_eq!((code, told.as_str()), (1, ""));
    assert!(
        errors.contains("no node answers at ./data/admin.sock") && errors.contains("eventmesh-edge run"),
        "{errors}"
    );
}

#[test]
fn sigterm_and_sigint_stop_in_order() {
    for signal in [Signal::TERM, Signal::INT] {
        let dir = scratch();
        let mut node = Node::start(edge(dir.path()).args(["run", "--listen", "127.0.0.1:0"]));
        let address = node.ready();
        // Somebody is connected: that must not hold the stop up.
        let _client = TcpStream::connect(address).unwrap();
        node.signal(signal);
        let (code, log) = node.ended();
        assert_eq!(code, Some(0), "{log}");
        assert!(log.lines().last().unwrap().contains("stopped"), "{log}");
        assert!(!dir.path().join("data/admin.sock").exists());
        assert!(TcpStream::connect(address).is_err());
    }
}

/// P1 and P6 in their smallest form; `tests/e2e` has the large ones.
#[test]
fn what_was_acknowledged_survives_kill_9_and_its_leftovers_are_no_obstacle() {
    let dir = scratch();
    for start in 1..=3_u64 {
        let mut node = Node::start(edge(dir.path()).args(["run", "--listen", "127.0.0.1:0"]));
        publish(node.ready());
        let status = status(dir.path());
        assert_eq!(status["streams"][0]["backlogs"][0]["events"], start, "{status}");
        assert_eq!(status["node"]["epoch"], start);
        node.signal(Signal::KILL);
        let (code, _) = node.ended();
        assert_eq!(code, None);
        assert!(dir.path().join("data/admin.sock").exists(), "the test has its subject");
    }
}

#[test]
fn a_port_in_use_is_named() {
    let dir = scratch();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, _, log) = output(dir.path(), &["run", "--listen", &address]);
    assert_eq!(code, 2, "{log}");
    let last = log.lines().last().unwrap();
    assert!(last.contains(&address) && last.contains("in use"), "{log}");
}

#[test]
fn a_data_directory_in_use_is_named() {
    let dir = scratch();
    let mut node = Node::start(edge(dir.path()).args(["run", "--listen", "127.0.0.1:0"]));
    node.ready();
    let (code, _, log) = output(dir.path(), &["run", "--listen", "127.0.0.1:0"]);
    assert_eq!(code, 2, "{log}");
    assert!(log.lines().last().unwrap().contains("data"), "{log}");
    let (code, _, _) = output(dir.path(), &["status"]);
    assert_eq!(code, 0, "the first node is not disturbed");
}

#[test]
fn a_data_directory_that_is_none_is_named() {
    let dir = scratch();
    std::fs::write(dir.path().join("data"), "a file").unwrap();
    let (code, _, log) = output(dir.path(), &["run", "--listen", "127.0.0.1:0"]);
    assert_eq!(code, 2, "{log}");
    assert!(log.lines().last().unwrap().contains("data"), "{log}");
}

#[test]
fn a_data_directory_of_a_later_version_is_refused() {
    let dir = scratch();
    let mut node = Node::start(edge(dir.path()).args(["run", "--listen", "127.0.0.1:0"]));
    node.ready();
    node.signal(Signal::TERM);
    assert_eq!(node.ended().0, Some(0));
    let format = dir.path().join("data/format");
    let later = "eventmesh-edge store 99\n";
    std::fs::write(&format, later).unwrap();
    let (code, _, log) = output(dir.path(), &["run", "--listen", "127.0.0.1:0"]);
    assert_eq!(code, 2, "{log}");
    let last = log.lines().last().unwrap();
    assert!(last.contains("version 99") && last.contains("start the version that wrote it"), "{log}");
}

#[test]
fn a_missing_password_file_or_certificate_is_named() {
    let dir = scratch();
    for (keys, named) in [
        ("auth = \"password\"\npassword_file = \"nowhere\"", "nowhere"),
        ("tls = { cert = \"missing.pem\", key = \"missing.key\" }", "missing.pem"),
    ] {
        std::fs::write(
            dir.path().join("node.toml"),
            format!("[[listener]]\nbind = \"127.0.0.1:0\"\n{keys}\n"),
        )
        .unwrap();
        let (code, _, log) = output(dir.path(), &["run", "--config", "node.toml"]);
        assert_eq!(code, 2, "{log}");
        let last = log.lines().last().unwrap();
        assert!(last.starts_with("listener[0]: ") && last.contains(named), "{log}");
    }
}

#[test]
fn systemd_is_told() {
    let dir = scratch();
    let path = dir.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    let hear = || {
        let mut heard = [0; 64];
        let n = systemd.recv(&mut heard).unwrap();
        String::from_utf8_lossy(&heard[..n]).into_owned()
    };
    let mut command = edge(dir.path());
    let mut node = Node::start(command.args(["run", "--listen", "127.0.0.1:0"]).env("NOTIFY_SOCKET", &path));
    node.ready();
    assert_eq!(hear(), "READY=1");
    node.signal(Signal::TERM);
    assert_eq!(hear(), "STOPPING=1");
    assert_eq!(node.ended().0, Some(0));
}

#[test]
fn json_logs_are_json() {
    let dir = scratch();
    let mut command = edge(dir.path());
    command.args(["run", "--listen", "127.0.0.1:0"]).env("EVENTMESH_EDGE_LOG_FORMAT", "json");
    let mut node = Node::start(&mut command);
    let line = node.wait_for("\"message\":\"ready\"");
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    let listener = ready["listeners"].as_str().unwrap().strip_prefix("mqtt://").unwrap().to_owned();
    assert_eq!(connect(listener.parse().unwrap()), 0);
    node.signal(Signal::TERM);
    let (_, log) = node.ended();
    for line in log.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
}

#[test]
fn a_password_becomes_a_line_of_the_password_file() {
    let dir = scratch();
    let mut child = edge(dir.path());
    let mut child =
        child.args(["password", "anna"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"correct horse\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let line = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    assert!(line.starts_with("anna:$argon2id$") && line.ends_with('\n'), "{line}");
    assert!(!line.contains("correct"));
}

#[test]
fn help_and_version() {
    let dir = scratch();
    let (code, help, _) = output(dir.path(), &["--help"]);
    assert_eq!(code, 0);
    assert!(
        help.contains("eventmesh-edge check --config node.toml") && help.contains("Exit codes"),
        "{help}"
    );
    let (code, version, _) = output(dir.path(), &["--version"]);
    assert_eq!((code, version.trim()), (0, concat!("eventmesh-edge ", env!("CARGO_PKG_VERSION"))));
    assert_eq!(output(dir.path(), &["rnu"]).0, 2);
}
