//! `cargo xtask arm`: the node for ARM Linux, built with Debian's cross compilers and tried under QEMU.

use crate::process::{Outcome, root, run};
use std::process::Command;

/// Builds for `triple` and runs `--version` and `check` of the result.
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
    arm_cargo(&["run", "--release", "-p", "eventmesh-edge", "--", "check", "--config", "config/node.toml"])
}
