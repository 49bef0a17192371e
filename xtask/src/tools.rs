//! The foreign programs that the tests drive: real clients, a real broker, a system call tracer.
//!
//! A missing one is installed when that is allowed (root, or `CI=true`), otherwise its package is named and the tests
//! that need it say loudly that they were skipped.

use crate::process::{on_path, run};
use std::process::Command;

/// A program and the Debian package that has it.
struct Tool {
    program: &'static str,
    package: &'static str,
    needed_for: &'static str,
}

const TOOLS: [Tool; 7] = [
    Tool { program: "mosquitto_pub", package: "mosquitto-clients", needed_for: "clients of another make" },
    Tool { program: "mosquitto", package: "mosquitto", needed_for: "an upstream broker of another make" },
    Tool {
        program: "strace",
        package: "strace",
        needed_for: "the power-cut sweep, and the proof that fdatasync comes before the answer",
    },
    Tool {
        program: "coap-client-notls",
        package: "libcoap3-bin",
        needed_for: "CoAP clients of another make",
    },
    Tool { program: "javac", package: "default-jdk-headless", needed_for: "the Java SDK of EventMesh" },
    Tool { program: "mvn", package: "maven", needed_for: "the Java SDK of EventMesh" },
    Tool { program: "openssl", package: "openssl", needed_for: "throw-away certificates" },
];

/// Installs or names what is missing; returns what still is.
pub(crate) fn provide() -> Vec<String> {
    let missing: Vec<&Tool> = TOOLS.iter().filter(|t| !on_path(t.program)).collect();
    let paho = !has_paho();
    if missing.is_empty() && !paho && on_path("aiocoap-client") {
        return forbidden();
    }
    let mut packages: Vec<&str> = missing.iter().map(|t| t.package).collect();
    if paho {
        packages.push("python3-paho-mqtt");
    }
    for tool in &missing {
        println!("missing: {} (for {}), Debian package {}", tool.program, tool.needed_for, tool.package);
    }
    if may_install() {
        install(&packages, paho);
    } else if !packages.is_empty() {
        println!("to install them: apt-get install {}", packages.join(" "));
    }
    let mut still: Vec<String> =
        TOOLS.iter().filter(|t| !on_path(t.program)).map(|t| t.program.to_owned()).collect();
    if !has_paho() {
        still.push("paho-mqtt".to_owned());
    }
    still.extend(forbidden());
    still
}

/// What is there and may not be used: a container without SYS_PTRACE has a strace that traces nothing.
fn forbidden() -> Vec<String> {
    let traces = || {
        let mut probe = Command::new("strace");
        probe.args(["-f", "--seccomp-bpf", "-e", "trace=close", "-o", "/dev/null", "true"]);
        probe.output().is_ok_and(|output| output.status.success())
    };
    if on_path("strace") && !traces() {
        println!("forbidden: strace may not trace here; a container needs --cap-add=SYS_PTRACE");
        return vec!["strace".to_owned()];
    }
    Vec::new()
}

fn may_install() -> bool {
    let root = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout.trim_ascii() == b"0");
    (root || std::env::var("CI").is_ok_and(|v| v == "true")) && on_path("apt-get")
}

fn install(packages: &[&str], paho: bool) {
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-qq", "-o", "DPkg::Lock::Timeout=600"])
            .args(args);
        run(&mut command)
    };
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(packages);
    if !packages.is_empty()
        && let Err(error) = apt(&["update"]).and_then(|()| apt(&arguments))
    {
        println!("could not install: {error}");
    }
    // The python3 on the PATH need not be Debian's.
    if paho && !has_paho() {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "paho-mqtt"]);
        if let Err(error) = run(&mut pip) {
            println!("could not install: {error}");
        }
    }
    // Not packaged by Debian 12; tests of it are skipped, loudly, where it cannot be had.
    if !on_path("aiocoap-client") {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "aiocoap"]);
        if let Err(error) = run(&mut pip) {
            println!("could not install: {error}");
        }
    }
    // Debian starts the broker as a service where there is an init system: ours are started by the tests alone.
}

fn has_paho() -> bool {
    Command::new("python3").args(["-c", "import paho.mqtt.client"]).output().is_ok_and(|o| o.status.success())
}
