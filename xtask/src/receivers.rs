//! Receivers of CloudEvents over HTTP in two other languages, made of the official SDKs, for `tests/e2e/tests/http.rs`.

use crate::process::{on_path, root, run, target_dir};
use std::path::PathBuf;
use std::process::Command;

/// Makes what is missing; returns what could not be made.
pub(crate) fn provide() -> Vec<String> {
    let mut missing = Vec::new();
    for (name, make) in
        [("CloudEvents SDK for Python", python as fn() -> bool), ("CloudEvents SDK for Go", go)]
    {
        if !make() {
            missing.push(name.to_owned());
        }
    }
    missing
}

/// Beside the profiles, so that `cargo clean` is all it takes to begin anew.
fn folder() -> PathBuf {
    target_dir("receivers")
}

fn python() -> bool {
    let venv = folder().join("python");
    let program = venv.join("bin/python");
    let has_sdk = |program: &PathBuf| {
        Command::new(program)
            .args(["-c", "import cloudevents.core"])
            .output()
            .is_ok_and(|o| o.status.success())
    };
    if has_sdk(&program) {
        return true;
    }
    if !on_path("python3") {
        return false;
    }
    let requirements = root().join("tests/e2e/receivers/python/requirements.txt");
    let made = run(Command::new("python3").args(["-m", "venv"]).arg(&venv)).and_then(|()| {
        let mut pip = Command::new(&program);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(requirements);
        run(&mut pip)
    });
    if let Err(error) = made {
        println!("could not install: {error}");
    }
    has_sdk(&program)
}

fn go() -> bool {
    let program = folder().join("go-receiver");
    if !on_path("go") {
        return program.is_file();
    }
    // Cheap when nothing changed; modules are pinned by go.sum.
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&program).arg(".").current_dir(root().join("tests/e2e/receivers/go"));
    if let Err(error) = run(&mut build) {
        println!("could not build: {error}");
    }
    program.is_file()
}
