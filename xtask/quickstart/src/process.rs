//! The hub and the node as processes.

use crate::balance::{Balance, Message};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

pub(crate) type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

const PATIENCE: Duration = Duration::from_secs(30);

/// The upstream: rumqttd, in a process of its own, printing what it receives.
pub(crate) struct Hub {
    child: Child,
    port: u16,
}

impl Hub {
    /// On `port`, or on a free one if that is 0.
    pub(crate) async fn start(dir: &Path, port: u16, balance: Arc<Balance>) -> Outcome<Hub> {
        let mut child = Command::new(dir.join("eventmesh-edge-hub"))
            .args(["--listen", &format!("127.0.0.1:{port}"), "--json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
        let first =
            tokio::time::timeout(PATIENCE, lines.next_line()).await??.ok_or("the hub did not start")?;
        let first: serde_json::Value = serde_json::from_str(&first)?;
        let port =
            first.get("port").and_then(serde_json::Value::as_u64).ok_or("the hub did not say its port")?;
        tokio::spawn(show(lines, balance));
        Ok(Hub { child, port: u16::try_from(port)? })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The hub keeps nothing: it is simply ended.
    pub(crate) async fn stop(&mut self) -> Outcome {
        Ok(self.child.kill().await?)
    }
}

/// Prints what arrives and keeps the books.
async fn show(mut lines: Lines<BufReader<ChildStdout>>, balance: Arc<Balance>) {
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(event) = serde_json::from_str::<serde_json::Value>(&line) else { continue };
        let text = |name: &str| event.get(name).and_then(serde_json::Value::as_str).unwrap_or("-").to_owned();
        if text("source").starts_with("edge://") {
            // The node's own events: what its state is, not every heartbeat; and no part of the balance.
            if text("topic").ends_with("/state") {
                println!("   upstream: {:<28} the node says: {}", text("topic"), text("type"));
            }
            continue;
        }
        println!(
            "   upstream: {:<28} id={:<22} source={} seq={} {}",
            text("topic"),
            text("id"),
            text("source"),
            text("sequence").trim_start_matches('0'),
            text("payload"),
        );
        balance.arrived(message(&text("payload")));
    }
}

fn message(payload: &str) -> Option<Message> {
    let reading: serde_json::Value = serde_json::from_str(payload).ok()?;
    Some((reading.get("device")?.as_str()?.to_owned(), reading.get("n")?.as_u64()?))
}

/// The node.
pub(crate) struct Node {
    program: PathBuf,
    config: PathBuf,
    data: PathBuf,
    child: Child,
    port: u16,
    coap: SocketAddr,
}

impl Node {
    pub(crate) async fn start(dir: &Path, work: &Path, hub: u16) -> Outcome<Node> {
        let (data, config) = (work.join("data"), work.join("node.toml"));
        // The well-known port if it is free, so that the lines to paste are short.
        let listen = std::net::TcpListener::bind("127.0.0.1:1883")
            .or_else(|_| std::net::TcpListener::bind("127.0.0.1:0"))
            .and_then(|l| l.local_addr())?;
        let coap = std::net::UdpSocket::bind("127.0.0.1:5683")
            .or_else(|_| std::net::UdpSocket::bind("127.0.0.1:0"))
            .and_then(|socket| socket.local_addr())?;
        std::fs::write(&config, node_toml(&data, listen.port(), coap, hub))?;
        let program = dir.join("eventmesh-edge");
        let child = spawn(&program, &config, work)?;
        let node = Node { program, config, data, child, port: listen.port(), coap };
        node.wait().await?;
        Ok(node)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Where it takes CoAP.
    pub(crate) fn coap(&self) -> SocketAddr {
        self.coap
    }

    pub(crate) fn status_line(&self) -> String {
        format!("{} status --data-dir {}", self.program.display(), self.data.display())
    }

    pub(crate) async fn print_status(&self) {
        let status =
            Command::new(&self.program).args(["status", "--data-dir"]).arg(&self.data).status().await;
        if let Err(error) = status {
            println!("-- no status: {error}");
        }
    }

    pub(crate) async fn kill(&mut self) -> Outcome {
        Ok(self.child.kill().await?)
    }

    pub(crate) async fn start_again(&mut self) -> Outcome {
        let work = self.config.parent().unwrap_or(Path::new("."));
        self.child = spawn(&self.program, &self.config, work)?;
        self.wait().await
    }

    /// SIGTERM and a clean end.
    pub(crate) async fn stop(&mut self) -> Outcome {
        let pid = self.child.id().ok_or("the node has already ended")?;
        Command::new("kill").args(["-TERM", &pid.to_string()]).status().await?;
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await??;
        if status.success() { Ok(()) } else { Err(format!("the node ended with {status}").into()) }
    }

    /// Until its port answers.
    async fn wait(&self) -> Outcome {
        let answers = async {
            while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, answers).await.map_err(|_| {
            format!("the node does not answer; see {}", self.config.with_file_name("node.log").display())
                .into()
        })
    }
}

fn spawn(program: &Path, config: &Path, work: &Path) -> Outcome<Child> {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(work.join("node.log"))?;
    Ok(Command::new(program)
        .args(["run", "--config"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()?)
}

fn node_toml(data: &Path, port: u16, coap: SocketAddr, hub: u16) -> String {
    format!(
        r#"[node]
name = "quickstart"
data_dir = "{}"

[[listener]]
kind = "mqtt"
bind = "127.0.0.1:{port}"
auth = "anonymous"

[[listener]]
kind = "coap"
bind = "{coap}"
auth = "anonymous"

[[uplink]]
name = "hub"
kind = "mqtt"
addresses = ["127.0.0.1:{hub}"]
subscribe = ["cmd/#"]
"#,
        data.display()
    )
}
