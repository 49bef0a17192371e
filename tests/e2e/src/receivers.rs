//! Receivers of CloudEvents over HTTP, made of the official SDKs of other languages (`cargo xtask test` makes them).

use crate::tools::bin_dir;
use crate::{PATIENCE, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sdk {
    /// `cloudevents` from PyPI; knows no batches.
    Python,
    /// `github.com/cloudevents/sdk-go`.
    Go,
}

/// One event as an SDK understood it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Understood {
    /// `binary`, `structured` or `batch`.
    pub mode: String,
    /// All of them.
    pub attributes: BTreeMap<String, String>,
    /// As base64.
    pub data: String,
}

/// A receiver as a process; killed when dropped. What it understood is kept over restarts.
pub struct Receiver {
    sdk: Sdk,
    child: Option<Child>,
    port: u16,
    lines: Arc<Mutex<Vec<serde_json::Value>>>,
}

impl Sdk {
    fn command(self) -> Option<Command> {
        let made = bin_dir().parent()?.join("receivers");
        let program = match self {
            Sdk::Python => made.join("python/bin/python"),
            Sdk::Go => made.join("go-receiver"),
        };
        if !program.is_file() {
            println!(
                "SKIPPED {self:?} receiver: {} is not there, `cargo xtask test` makes it",
                program.display()
            );
            return None;
        }
        let mut command = Command::new(program);
        if self == Sdk::Python {
            command.arg(script());
        }
        Some(command)
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("receivers/python/receiver.py")
}

impl Receiver {
    /// Starts it on a free port; `None`, said loudly, if it is not on this machine.
    ///
    /// # Errors
    /// If it is there and does not come up.
    pub async fn start(sdk: Sdk) -> Result<Option<Receiver>> {
        if sdk.command().is_none() {
            return Ok(None);
        }
        let mut receiver = Receiver { sdk, child: None, port: 0, lines: Arc::default() };
        receiver.start_again().await?;
        Ok(Some(receiver))
    }

    /// Starts it once more on the same port.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn start_again(&mut self) -> Result {
        let mut command = self.sdk.command().ok_or("it is gone")?;
        command.arg(self.port.to_string()).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
        let first = tokio::time::timeout(PATIENCE, lines.next_line()).await??.ok_or("the receiver ended")?;
        let first: serde_json::Value = serde_json::from_str(&first)?;
        let port = first.get("port").and_then(serde_json::Value::as_u64).ok_or("no port")?;
        self.port = u16::try_from(port)?;
        let kept = Arc::clone(&self.lines);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                // A line that a kill cut short says nothing, and was answered to nobody.
                if let Ok(value) = serde_json::from_str(&line) {
                    kept.lock().unwrap_or_else(PoisonError::into_inner).push(value);
                }
            }
        });
        self.child = Some(child);
        Ok(())
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// If it was not running.
    pub async fn kill(&mut self) -> Result {
        let mut child = self.child.take().ok_or("not running")?;
        child.kill().await?;
        Ok(())
    }

    /// Which one it is.
    #[must_use]
    pub fn sdk(&self) -> Sdk {
        self.sdk
    }

    /// Where it takes events.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/events", self.port)
    }

    fn lines(&self) -> MutexGuard<'_, Vec<serde_json::Value>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that it took, in order, repetitions included.
    #[must_use]
    pub fn understood(&self) -> Vec<Understood> {
        self.lines().iter().filter_map(understood).collect()
    }

    /// What it refused, in its words.
    #[must_use]
    pub fn refused(&self) -> Vec<String> {
        let words = |line: &serde_json::Value| Some(line.get("refused")?.as_str()?.to_owned());
        self.lines().iter().filter_map(words).collect()
    }
}

fn understood(line: &serde_json::Value) -> Option<Understood> {
    let attributes = line.get("attributes")?.as_object()?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    Some(Understood {
        mode: line.get("mode").map(text)?,
        attributes: attributes.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
        data: line.get("data").map(text).unwrap_or_default(),
    })
}
