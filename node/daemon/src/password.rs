//! `eventmesh-edge password`: one line for a listener's password file.

use crate::cli;
use crate::exit::Failure;
use anyhow::{Context, bail, ensure};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{BufRead, IsTerminal, Read, Write, stderr, stdin};

/// [MQTT-3.1.3.6]: the password is binary data of at most 65,535 bytes.
const PASSWORD_MAX_BYTES: u64 = 65_535;

/// Prints `name:hash`.
pub(crate) fn password(args: &cli::Password) -> Result<(), Failure> {
    let line = hashed(&args.username).map_err(Failure::Failed)?;
    println!("{line}");
    Ok(())
}

fn hashed(username: &str) -> anyhow::Result<String> {
    let password = read_password(username)?;
    ensure!(!password.is_empty(), "the password is empty: give one on standard input");
    eventmesh_edge_ingress_mqtt::password_line(username, password.as_bytes()).context("hash password")
}

/// From a terminal: asked for twice, not shown. From a pipe: the first line.
fn read_password(username: &str) -> anyhow::Result<String> {
    if !stdin().is_terminal() {
        return read_line();
    }
    let _hidden = Hidden::start().context("hide what is typed")?;
    let first = ask(&format!("password for {username}: "))?;
    if first != ask("once more: ")? {
        bail!("the two are not the same");
    }
    Ok(first)
}

fn ask(prompt: &str) -> anyhow::Result<String> {
    eprint!("{prompt}");
    stderr().flush().context("prompt")?;
    let line = read_line();
    eprintln!();
    line
}

fn read_line() -> anyhow::Result<String> {
    let mut line = String::new();
    stdin().lock().take(PASSWORD_MAX_BYTES + 2).read_line(&mut line).context("read password")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// The terminal without echo; as it was before once this goes.
struct Hidden(Termios);

impl Hidden {
    fn start() -> rustix::io::Result<Hidden> {
        let before = tcgetattr(stdin())?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(stdin(), OptionalActions::Flush, &hidden)?;
        Ok(Hidden(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if tcsetattr(stdin(), OptionalActions::Flush, &self.0).is_err() {
            eprintln!("the terminal stays without echo: `stty echo` brings it back");
        }
    }
}
