//! MQTT clients of other makes, for `tests/e2e/tests/five.rs`: MQTT.js and paho in Go. (mosquitto and paho in Python come with
//! the tools.)

use crate::process::{on_path, root, run, target_dir};
use std::path::PathBuf;
use std::process::Command;

/// Makes what is missing; returns what could not be made.
pub(crate) fn provide() -> Vec<String> {
    let mut missing = Vec::new();
    for (name, make) in [("MQTT.js", js as fn() -> bool), ("paho for Go", go)] {
        if !make() {
            missing.push(name.to_owned());
        }
    }
    missing
}

fn source(language: &str) -> PathBuf {
    root().join("tests/e2e/clients").join(language)
}

/// A folder with the packages that the lock file names, and the program beside them.
fn js() -> bool {
    let folder = target_dir("receivers").join("mqtt-js");
    let made = std::fs::create_dir_all(&folder).and_then(|()| {
        ["package.json", "package-lock.json", "five.js"]
            .iter()
            .try_for_each(|file| std::fs::copy(source("js").join(file), folder.join(file)).map(drop))
    });
    if let Err(error) = made {
        println!("could not copy: {error}");
        return false;
    }
    if !folder.join("node_modules/mqtt").is_dir() && on_path("npm") {
        let mut npm = Command::new("npm");
        npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(&folder);
        if let Err(error) = run(&mut npm) {
            println!("could not install: {error}");
        }
    }
    on_path("node") && folder.join("node_modules/mqtt").is_dir()
}

/// Cheap when nothing changed; modules are pinned by go.sum.
fn go() -> bool {
    let program = target_dir("receivers").join("go-five");
    if on_path("go") {
        let mut build = Command::new("go");
        build.args(["build", "-o"]).arg(&program).arg(".").current_dir(source("go"));
        if let Err(error) = run(&mut build) {
            println!("could not build: {error}");
        }
    }
    program.is_file()
}
