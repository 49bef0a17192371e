//! `cargo xtask arm`: the node for ARM Linux, built with Debian's cross compilers and tried under QEMU.

use crate::process::{Outcome, root, run};
use std::process::Command;

/// Builds for `triple`, runs `--version` and `check` of the result, and lets it take one message in (`cross/smoke`).
pub(crate) fn run_for(triple: &str) -> Outcome {
    let cross = root().join("cross");
    run(Command::new("sh").arg(cross.join("setup-arm-toolchain")))?;
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
    run(Command::new(cross.join("smoke")).args([qemu, "-L", libraries]).arg(built))
}
