//! The built programs as processes: the node, and the hub upstream of it.

use crate::tools::bin_dir;
use crate::{PATIENCE, Result, eventually};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

/// A node with a data directory and a configuration of its own; killed when dropped.
pub struct Node {
    dir: TempDir,
    wrapper: Vec<String>,
    child: Option<Child>,
    log: Arc<Mutex<String>>,
    mqtt: SocketAddr,
}

const ANONYMOUS: &str = "[[listener]]\nkind = \"mqtt\"\nbind = \"127.0.0.1:0\"\nauth = \"anonymous\"\n";

impl Node {
    /// Starts a node with an anonymous listener on a free port and `config` behind that; returns when it is ready.
    ///
    /// # Errors
    /// If it does not become ready; with its log.
    pub async fn start(config: &str) -> Result<Node> {
        Node::start_under(&[], config).await
    }

    /// The same under another program (strace).
    ///
    /// # Errors
    /// As [`Node::start`].
    pub async fn start_under(wrapper: &[String], config: &str) -> Result<Node> {
        Node::launch(wrapper, &format!("{ANONYMOUS}{config}")).await
    }

    /// The same without the anonymous listener: `config` has its own.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub async fn start_with_listeners(config: &str) -> Result<Node> {
        Node::launch(&[], config).await
    }

    async fn launch(wrapper: &[String], config: &str) -> Result<Node> {
        let dir = tempfile::tempdir()?;
        write_config(dir.path(), config)?;
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let log = Arc::default();
        let mut node = Node { dir, wrapper: wrapper.to_vec(), child: None, log, mqtt: nowhere };
        node.start_again().await?;
        Ok(node)
    }

    /// Another configuration behind the anonymous listener, for the next start.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn reconfigure(&self, config: &str) -> Result {
        write_config(self.dir.path(), &format!("{ANONYMOUS}{config}"))
    }

    /// Starts it once more on the same data directory and waits until it is ready.
    ///
    /// # Errors
    /// If it does not become ready; with its log.
    pub async fn start_again(&mut self) -> Result {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let program = bin_dir().join("eventmesh-edge");
        let mut words = self.wrapper.clone();
        words.push(program.display().to_string());
        let (first, rest) = words.split_first().ok_or("nothing to start")?;
        let mut child = Command::new(first)
            .args(rest)
            .args(["run", "--config"])
            .arg(self.dir.path().join("node.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| {
                format!("start {}: {e} (build it: cargo build -p eventmesh-edge)", program.display())
            })?;
        collect(child.stdout.take(), Arc::clone(&self.log));
        collect(child.stderr.take(), Arc::clone(&self.log));
        self.child = Some(child);
        let ready = eventually("the node is ready", async || {
            let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
            log.lines().find(|l| l.contains("\"ready\"")).map(str::to_owned)
        })
        .await
        .map_err(|e| format!("{e}; its log:\n{}", self.log()))?;
        self.mqtt = listener(&ready).ok_or_else(|| format!("no listener in {ready}"))?;
        Ok(())
    }

    /// Where MQTT clients connect.
    #[must_use]
    pub fn mqtt(&self) -> SocketAddr {
        self.mqtt
    }

    /// Where its data are.
    #[must_use]
    pub fn data_dir(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    /// SIGKILL, and waits until the process is gone.
    ///
    /// # Errors
    /// If it was not running.
    pub async fn kill(&mut self) -> Result {
        let mut child = self.child.take().ok_or("not running")?;
        child.kill().await?;
        Ok(())
    }

    /// SIGTERM, and waits for a clean end within the node's own bound.
    ///
    /// # Errors
    /// If it ends with another status or not at all; with its log.
    pub async fn stop(&mut self) -> Result {
        let mut child = self.child.take().ok_or("not running")?;
        let pid = self.pid_of_node(&child)?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let status = tokio::time::timeout(PATIENCE, child.wait()).await??;
        if status.success() {
            return Ok(());
        }
        Err(format!("the node ended with {status}; its log:\n{}", self.log()).into())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If it is not running.
    pub fn signal(&self, signal: rustix::process::Signal) -> Result {
        let pid = self.pid_of_node(self.child.as_ref().ok_or("not running")?)?;
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    /// Waits for its end, whatever it ends with.
    ///
    /// # Errors
    /// If it does not end; with its log.
    pub async fn ended(&mut self) -> Result<Option<i32>> {
        let mut child = self.child.take().ok_or("not running")?;
        let status = tokio::time::timeout(PATIENCE, child.wait()).await;
        let status = status.map_err(|_| format!("the node does not end; its log:\n{}", self.log()))?;
        Ok(status?.code())
    }

    /// Its process id.
    ///
    /// # Errors
    /// If it is not running.
    pub fn pid(&self) -> Result<i32> {
        let pid = self.pid_of_node(self.child.as_ref().ok_or("not running")?)?;
        Ok(pid.as_raw_nonzero().get())
    }

    /// Resident memory, KiB.
    ///
    /// # Errors
    /// If it is not running.
    pub fn rss_kib(&self) -> Result<u64> {
        let pid = self.pid_of_node(self.child.as_ref().ok_or("not running")?)?;
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// `eventmesh-edge status --json`, as an operator asks for it.
    ///
    /// # Errors
    /// If the node does not answer.
    pub fn status(&self) -> Result<serde_json::Value> {
        let output = std::process::Command::new(bin_dir().join("eventmesh-edge"))
            .args(["status", "--json", "--data-dir"])
            .arg(self.data_dir())
            .output()?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Everything it has logged since its last start.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A line for a password file, made by the program itself.
    ///
    /// # Errors
    /// If the program fails.
    pub async fn password_line(user: &str, password: &str) -> Result<String> {
        let mut child = Command::new(bin_dir().join("eventmesh-edge"))
            .args(["password", user])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().ok_or("no stdin")?;
        stdin.write_all(format!("{password}\n").as_bytes()).await?;
        drop(stdin);
        let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await??;
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The node's own process, which is a child of the wrapper where there is one.
    fn pid_of_node(&self, child: &Child) -> Result<rustix::process::Pid> {
        let pid = child.id().ok_or("already ended")?;
        let pid = if self.wrapper.is_empty() {
            pid.to_string()
        } else {
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
            children.split_whitespace().next().ok_or("the wrapper has no child")?.to_owned()
        };
        rustix::process::Pid::from_raw(pid.parse()?).ok_or_else(|| "pid 0".into())
    }
}

fn write_config(dir: &std::path::Path, config: &str) -> Result {
    let head = format!(
        "[node]\nname = \"e2e\"\ndata_dir = \"{}\"\n[log]\nformat = \"json\"\n",
        dir.join("data").display()
    );
    Ok(std::fs::write(dir.join("node.toml"), format!("{head}{config}"))?)
}

/// The first MQTT listener's address in the line that says that the node is ready.
fn listener(line: &str) -> Option<SocketAddr> {
    let start = line.find("127.0.0.1:")?;
    let text = line.get(start..)?;
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':')).unwrap_or(text.len());
    text.get(..end)?.parse().ok()
}

fn collect(from: Option<impl AsyncRead + Unpin + Send + 'static>, into: Arc<Mutex<String>>) {
    let Some(from) = from else { return };
    tokio::spawn(async move {
        let mut lines = BufReader::new(from).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let mut log = into.lock().unwrap_or_else(PoisonError::into_inner);
            // Bounded: a test that logs megabytes has failed anyway.
            if log.len() < 4 << 20 {
                log.push_str(&line);
                log.push('\n');
            }
        }
    });
}

/// The upstream hub (rumqttd) as a process; killed when dropped.
pub struct Hub {
    child: Child,
    addr: SocketAddr,
}

impl Hub {
    /// Starts it on a free port.
    ///
    /// # Errors
    /// If it does not say its port.
    pub async fn start() -> Result<Hub> {
        let program = bin_dir().join("eventmesh-edge-hub");
        let mut child = Command::new(&program)
            .args(["--listen", "127.0.0.1:0", "--json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| {
                format!("start {}: {e} (build it: cargo build -p eventmesh-edge-hub)", program.display())
            })?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
        let first = tokio::time::timeout(PATIENCE, lines.next_line()).await??.ok_or("the hub ended")?;
        let value: serde_json::Value = serde_json::from_str(&first)?;
        let port = value
            .get("port")
            .and_then(serde_json::Value::as_u64)
            .and_then(|p| u16::try_from(p).ok())
            .ok_or("no port")?;
        // Read on, or its pipe fills.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        eventually("the hub accepts connections", async || tokio::net::TcpStream::connect(addr).await.ok())
            .await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
        Ok(Hub { child, addr })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// SIGKILL, and waits until the process is gone.
    ///
    /// # Errors
    /// If it cannot be killed.
    pub async fn kill(&mut self) -> Result {
        Ok(self.child.kill().await?)
    }
}
