//! Data directories that cannot be used, and damage that can: one clear message each, and what to do.

#![allow(clippy::indexing_slicing, reason = "a test may stop on a surprise")]

use eventmesh_edge_e2e::node::{Hub, Node};
use eventmesh_edge_e2e::raw::RawClient;
use eventmesh_edge_e2e::tools::bin_dir;
use eventmesh_edge_e2e::{PATIENCE, Result, audit::Auditor, eventually};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// Debian's user id of `nobody`.
const NOBODY: u32 = 65_534;

/// Runs the node on a data directory as somebody who is not root; what it ended with and its last line.
async fn refused(scratch: &Path, data: &Path) -> Result<(Option<i32>, String)> {
    let program = scratch.join("eventmesh-edge");
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        let user = NOBODY.to_string();
        command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]).arg(&program);
        command
    } else {
        Command::new(&program)
    };
    command.args(["run", "--listen", "127.0.0.1:0", "--data-dir"]).arg(data).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await??;
    let said = String::from_utf8(output.stderr)?;
    Ok((output.status.code(), said.lines().last().unwrap_or_default().to_owned()))
}

/// A place that everybody may look into, with the program in it.
fn scratch() -> Result<tempfile::TempDir> {
    let dir = tempfile::tempdir()?;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
    std::fs::copy(bin_dir().join("eventmesh-edge"), dir.path().join("eventmesh-edge"))?;
    Ok(dir)
}

#[tokio::test]
async fn a_data_directory_that_may_not_be_written_is_named_with_what_to_do() -> Result {
    let scratch = scratch()?;
    let data = scratch.path().join("data");
    std::fs::create_dir(&data)?;
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&data, Some(NOBODY), Some(NOBODY))?;
    }
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o555))?;
    let (code, line) = refused(scratch.path(), &data).await?;
    assert_eq!(code, Some(2), "{line}");
    assert!(line.contains(&data.display().to_string()) && line.contains("cannot be written by"), "{line}");
    assert!(line.contains("chmod -R u+rwX"), "what to do: {line}");
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// One in which a store is already, so that everything that the start opens is there and can be opened.
#[tokio::test]
async fn a_store_whose_directories_became_read_only_is_refused_at_the_start() -> Result {
    let scratch = scratch()?;
    let data = scratch.path().join("data");
    let mut node = Node::start("").await?;
    node.stop().await?;
    let mut copy = Command::new("cp");
    copy.arg("-r").arg(node.data_dir()).arg(&data);
    assert!(copy.status().await?.success());
    if rustix::process::geteuid().is_root() {
        let mut give = Command::new("chown");
        give.arg("-R").arg(format!("{NOBODY}:{NOBODY}")).arg(&data);
        assert!(give.status().await?.success());
    }
    for closed in [data.clone(), data.join("journal")] {
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o500))?;
        let (code, line) = refused(scratch.path(), &data).await?;
        assert_eq!(code, Some(2), "{line}");
        assert!(line.contains(&format!("because of the mode of {}:", closed.display())), "{line}");
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_made_is_named_with_what_to_do() -> Result {
    let scratch = scratch()?;
    let parent = scratch.path().join("parent");
    std::fs::create_dir(&parent)?;
    std::fs::set_permissions(&parent, std::fs::Permissions::from_mode(0o555))?;
    let data = parent.join("data");
    let (code, line) = refused(scratch.path(), &data).await?;
    assert_eq!(code, Some(2), "{line}");
    assert!(line.contains(&format!("may not make it in {}:", parent.display())), "{line}");
    assert!(line.contains("install -d") && !line.contains("chmod"), "what to do: {line}");
    Ok(())
}

#[tokio::test]
async fn a_data_directory_of_another_owner_is_named_with_what_to_do() -> Result {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root can give a directory away");
        return Ok(());
    }
    let scratch = scratch()?;
    let data = scratch.path().join("data");
    std::fs::create_dir(&data)?;
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755))?;
    let (code, line) = refused(scratch.path(), &data).await?;
    assert_eq!(code, Some(2), "{line}");
    assert!(line.contains("belongs to user id 0") && line.contains("runs as user id 65534"), "{line}");
    assert!(line.contains("chown -R 65534"), "what to do: {line}");
    Ok(())
}

/// What a power cut in the middle of a write leaves: cut, told once, and everything acknowledged is there.
#[tokio::test]
async fn a_torn_tail_is_cut_and_everything_acknowledged_is_there() -> Result {
    let hub = Hub::start().await?;
    let uplink = |addr| {
        format!(
            "[[uplink]]\nname = \"hub\"\nkind = \"mqtt\"\naddresses = [\"{addr}\"]\n[telemetry]\nenabled = false\n"
        )
    };
    // Nobody listens there: what is published waits on disk.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let mut node = Node::start(&uplink(nobody)).await?;
    let mut client = RawClient::new("device", node.mqtt());
    client.connect().await?;
    for n in 0..20 {
        client.publish("t", format!("acknowledged {n}").into_bytes()).await?;
    }
    client.settle_all().await?;
    node.kill().await?;
    let torn = tear(&node.data_dir())?;
    node.start_again().await?;
    let log = node.log();
    assert!(log.contains("cut a commit that was being written"), "{torn:?}: {log}");
    assert!(!log.contains("damaged"), "nothing was: {log}");
    assert_eq!(node.status()?["uplinks"][0]["backlog_events"], 20);
    node.kill().await?;
    // The same data to a hub that is there.
    node.reconfigure(&uplink(hub.addr()))?;
    let auditor = Auditor::start(hub.addr(), "#").await?;
    node.start_again().await?;
    eventually("all of it arrives", async || (auditor.seen().len() == 20).then_some(())).await?;
    node.stop().await
}

/// Writes the beginning of a frame behind the last one of the newest segment.
fn tear(data: &Path) -> Result<PathBuf> {
    let mut segments: Vec<PathBuf> =
        std::fs::read_dir(data.join("journal"))?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    segments.retain(|path| path.extension().is_some_and(|ending| ending == "seg"));
    segments.sort();
    // The one with the last message in it: others may be prepared already.
    for path in segments.iter().rev() {
        let mut file = std::fs::File::options().read(true).write(true).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let needle = b"acknowledged 19";
        let Some(at) = bytes.windows(needle.len()).rposition(|window| window == needle) else { continue };
        let end = at + needle.len();
        file.seek(SeekFrom::Start(end as u64))?;
        // 300 bytes are announced, and 60 of something came.
        file.write_all(&300u32.to_le_bytes())?;
        file.write_all(&[0x5a; 60])?;
        return Ok(path.clone());
    }
    Err("the last message is in no segment".into())
}
