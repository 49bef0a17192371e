//! `cargo xtask arm`: the node for ARM Linux, built with Debian's cross compilers and tried under QEMU.

use crate::process::{Outcome, root, run};
use std::path::Path;
use std::process::Command;

/// What a gateway has: 64 bits, and 32 with hardware floating point.
const TRIPLES: [&str; 2] = ["aarch64-unknown-linux-gnu", "armv7-unknown-linux-gnueabihf"];

/// Builds and tries all of [`TRIPLES`], or those that are asked for.
pub(crate) fn run_for(asked: &[String]) -> Outcome {
    let cross = root().join("cross");
    run(Command::new("sh").arg(cross.join("setup-arm-toolchain")))?;
    let all = TRIPLES.map(str::to_owned);
    let mut sizes = Vec::new();
    for triple in if asked.is_empty() { &all[..] } else { asked } {
        println!("\n== {triple}");
        let bytes = build_and_try(&cross, triple)?;
        sizes.push(format!("{triple}: {:.2} MB", bytes as f64 / 1e6));
    }
    println!("\nbuilt, and tried under QEMU:\n{}", sizes.join("\n"));
    Ok(())
}

/// Builds for `triple`, runs `--version` and `check` of the result, and lets it take one message in (`cross/smoke`).
/// Returns the size of the program.
fn build_and_try(cross: &Path, triple: &str) -> Result<u64, String> {
    let arm_cargo = |args: &[&str]| {
        let mut command = Command::new(cross.join("arm-cargo"));
        command.arg(triple).args(args).current_dir(root());
        run(&mut command)
    };
    arm_cargo(&["build", "--release", "-p", "eventmesh-edge"])?;
    arm_cargo(&["run", "--release", "-p", "eventmesh-edge", "--", "--version"])?;
    arm_cargo(&["run", "--release", "-p", "eventmesh-edge", "--", "check", "--config", "config/node.toml"])?;
    let (qemu, libraries) = match triple.split('-').next() {
        Some("aarch64") => ("qemu-aarch64", "/usr/aarch64-linux-gnu"),
        _ => ("qemu-arm", "/usr/arm-linux-gnueabihf"),
    };
    // Where arm-cargo puts it.
    let folder = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target-arm".into());
    let built = root().join(folder).join(triple).join("release/eventmesh-edge");
    run(Command::new(cross.join("smoke")).args([qemu, "-L", libraries]).arg(&built))?;
    std::fs::metadata(&built).map(|m| m.len()).map_err(|e| format!("{}: {e}", built.display()))
}
