//! `cargo xtask bench --uplinks`: what the way up costs, beside the goals (method: `docs/benchmarks.md`).

use crate::process::{Outcome, cargo, on_path, root, run, target_dir};
use std::path::Path;
use std::process::Command;

/// `work`: where data directories go.
pub(crate) fn measure(work: &Path, repeats: u32) -> Outcome {
    let programs = ["-p", "eventmesh-edge", "-p", "eventmesh-edge-load", "-p", "eventmesh-edge-standin"];
    let bins = ["--bin", "eventmesh-edge", "--bin", "mqtt-load", "--bin", "uplink-sink"];
    run(cargo(&["build", "--release"]).args(programs).args(bins))?;
    let mut perf = Command::new("python3");
    perf.arg(root().join("tests/bench/uplink_perf.py")).arg("--bin").arg(target_dir("release"));
    perf.arg("--work").arg(work).arg("--out").arg(work.join("uplinks.jsonl"));
    perf.args(["--repeats", &repeats.to_string()]).current_dir(root());
    match referee(work) {
        Ok(class_path) => perf.args(["--referee", &class_path]),
        Err(why) => {
            println!("SKIPPED: the Java SDK beside the node: {why}");
            &mut perf
        }
    };
    run(&mut perf)
}

/// The class path of the genuine Java SDK and the program around it.
fn referee(work: &Path) -> Result<String, String> {
    if !on_path("mvn") || !on_path("java") {
        return Err("it needs `java` and `mvn`".to_owned());
    }
    let target = work.join("referee");
    let list = target.join("class-path");
    let mut maven = Command::new("mvn");
    maven.args(["-q", "-B", "-f"]).arg(root().join("tests/eventmesh-standin/java/pom.xml"));
    maven
        .arg(format!("-Dreferee.target={}", target.display()))
        .args(["compile", "dependency:build-classpath"]);
    maven.arg(format!("-Dmdep.outputFile={}", list.display()));
    run(&mut maven)?;
    let jars = std::fs::read_to_string(&list).map_err(|e| format!("read {}: {e}", list.display()))?;
    Ok(format!("{}:{}", target.join("classes").display(), jars.trim()))
}
