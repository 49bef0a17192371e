//! P1, P5 and P6 on a file system that is really full, by somebody else's doing, or read-only: nothing is answered that is
//! not stored, sessions and cursors go on, a kill in that state costs nothing, and nobody has to restart anything.
//!
//! The node's directory lies in a small tmpfs. The test mounts it in a namespace of its own, by starting itself once more
//! under `unshare`; where that is not allowed it is skipped, and says so.

#![allow(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may stop on a surprise"
)]

use eventmesh_edge_e2e::audit::Auditor;
use eventmesh_edge_e2e::node::{Hub, Node};
use eventmesh_edge_e2e::proxy::{Link, Proxy};
use eventmesh_edge_e2e::raw::{RawClient, connect_packet, packet};
use eventmesh_edge_e2e::tools::foreign;
use eventmesh_edge_e2e::{PATIENCE, Result, eventually};
use std::collections::HashSet;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Child;

const PAYLOAD: usize = 2_000;
/// Where the small file system is, in the process that has one.
const MOUNTED: &str = "EDGE_E2E_SMALL_DISK";
/// Mounts one on the directory in $0, and goes on as the test.
const MOUNT: &str = "mount -t tmpfs -o size=48m,mode=700 none \"$0\" && exec \"$@\"";

/// The small file system. Everything that this process makes in temporary directories lies in it.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// In the process with the mount: where it is. In the first one: the test runs there, and `None`.
    fn enter(test: &str) -> Result<Option<SmallDisk>> {
        if let Some(dir) = std::env::var_os(MOUNTED) {
            return Ok(Some(SmallDisk(dir.into())));
        }
        let Some(unshare) = foreign("unshare", test) else { return Ok(None) };
        let dir = tempfile::tempdir()?;
        let under = |namespaces: &str| {
            let mut command = Command::new(&unshare);
            command.args([namespaces, "sh", "-c", MOUNT]).arg(dir.path());
            command
        };
        let works = |namespaces: &&str| {
            under(namespaces).arg("true").output().is_ok_and(|output| output.status.success())
        };
        // As root, or as anybody where users may make namespaces.
        let Some(namespaces) = ["-m", "-Urm"].into_iter().find(works) else {
            println!("SKIPPED {test}: mounting a file system is not allowed here");
            return Ok(None);
        };
        let status = under(namespaces)
            .arg(std::env::current_exe()?)
            .args([test, "--exact", "--nocapture"])
            .env(MOUNTED, dir.path())
            .env("TMPDIR", dir.path())
            .status()?;
        if status.success() { Ok(None) } else { Err("it failed in its namespace, see above".into()) }
    }

    fn filler(&self) -> PathBuf {
        self.0.join("somebody-elses.log")
    }

    /// Somebody else takes what is left, to the last byte.
    fn fill(&self) -> Result {
        let mut file = std::fs::File::options().create(true).append(true).open(self.filler())?;
        for piece in [64 << 10, 4 << 10, 1] {
            while file.write_all(&vec![b'x'; piece]).is_ok() {}
        }
        Ok(())
    }

    fn give_back(&self) -> Result {
        Ok(std::fs::remove_file(self.filler())?)
    }
}

/// A session that stays, over a bare socket: each step waits for its answer.
struct Session {
    stream: TcpStream,
    present: bool,
    next_packet_id: u16,
}

impl Session {
    async fn open(client_id: &str, node: SocketAddr) -> Result<Session> {
        let mut stream = TcpStream::connect(node).await?;
        stream.write_all(&connect_packet(client_id, false, 60)).await?;
        let connack: [u8; 4] = read(&mut stream).await?;
        let [0x20, 2, present, 0] = connack else { return Err(format!("CONNACK {connack:?}").into()) };
        Ok(Session { stream, present: present == 1, next_packet_id: 1 })
    }

    async fn subscribe(&mut self, filter: &str) -> Result {
        let mut body = self.next_packet_id.to_be_bytes().to_vec();
        body.extend_from_slice(&(filter.len() as u16).to_be_bytes());
        body.extend_from_slice(filter.as_bytes());
        body.push(1);
        self.stream.write_all(&packet(0x82, &body)).await?;
        let suback: [u8; 5] = read(&mut self.stream).await?;
        let [high, low] = self.next_packet_id.to_be_bytes();
        self.next_packet_id += 1;
        if suback == [0x90, 3, high, low, 1] { Ok(()) } else { Err(format!("SUBACK {suback:?}").into()) }
    }
}

async fn read<const N: usize>(stream: &mut TcpStream) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut bytes)).await??;
    Ok(bytes)
}

fn config(uplink: SocketAddr) -> String {
    // The limit of the configuration is larger than the disk, as it is when others fill it.
    format!("[[uplink]]\nname = \"up\"\nkind = \"mqtt\"\naddresses = [\"{uplink}\"]\n")
}

fn payload(client: &str, number: u64) -> Vec<u8> {
    let mut payload = format!("{client}-{number} ").into_bytes();
    payload.resize(PAYLOAD, b'.');
    payload
}

async fn publish(client: &mut RawClient, name: &str) -> Result {
    let number = client.next_number();
    client.publish("full/disk", payload(name, number)).await.map(drop)
}

/// Publishes until the node says that there is no room, and what it had said before is read.
async fn publish_until_full(client: &mut RawClient, name: &str, node: &Node) -> Result {
    let says = |node: &Node| node.log().contains("no room on the file system");
    let publishing = async {
        while !says(node) {
            // A node that withholds answers stops reading, too.
            if client.in_flight() < 200 {
                publish(client, name).await?;
            }
            client.read_for(Duration::from_millis(1)).await?;
        }
        Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    };
    tokio::time::timeout(PATIENCE, publishing).await??;
    // Something of this client has to wait from here on.
    publish(client, name).await?;
    Ok(())
}

/// Nothing is answered while somebody else is, twice.
async fn is_not_answered(client: &mut RawClient, session: &mut Session) -> Result {
    session.subscribe("first/+").await?;
    client.read_for(Duration::from_millis(100)).await?;
    let before = client.acknowledged.len();
    session.subscribe("second/+").await?;
    client.read_for(Duration::from_millis(300)).await?;
    assert_eq!(client.acknowledged.len(), before, "P1: answered without room to store it");
    assert!(client.in_flight() > 0);
    Ok(())
}

/// Everything that was acknowledged reaches the other side, and nothing that was never sent.
async fn arrives(auditor: &Auditor, clients: &[(&str, &RawClient)]) -> Result {
    let wanted: HashSet<Vec<u8>> = clients
        .iter()
        .flat_map(|(name, client)| client.acknowledged.iter().map(|number| payload(name, *number)))
        .collect();
    eventually("everything that was acknowledged arrives", async || {
        let seen: HashSet<Vec<u8>> = auditor.seen().iter().map(|event| event.payload.clone()).collect();
        wanted.is_subset(&seen).then_some(())
    })
    .await
    .map_err(|error| format!("{error}; the auditor {}", auditor.state()).into())
}

/// A client that has had a hundred messages acknowledged.
async fn publisher(node: &Node) -> Result<RawClient> {
    let mut client = RawClient::new("publisher", node.mqtt());
    client.connect().await?;
    for _ in 0..100 {
        publish(&mut client, "publisher").await?;
        client.settle(16).await?;
    }
    client.settle_all().await?;
    Ok(client)
}

#[tokio::test]
async fn a_full_disk_is_survived() -> Result {
    let Some(disk) = SmallDisk::enter("a_full_disk_is_survived")? else { return Ok(()) };
    let hub = Hub::start().await?;
    let auditor = Auditor::start(hub.addr(), "#").await?;
    let proxy = Proxy::start(hub.addr()).await?;
    proxy.set(Link::Refuses);
    let mut node = Node::start(&config(proxy.addr())).await?;
    let mut client = publisher(&node).await?;

    disk.fill()?;
    publish_until_full(&mut client, "publisher", &node).await?;
    let mut session = Session::open("stays", node.mqtt()).await?;
    is_not_answered(&mut client, &mut session).await?;
    // Somebody else's QoS 1 is not answered either.
    let mut other = RawClient::new("other", node.mqtt());
    other.connect().await?;
    publish(&mut other, "other").await?;
    is_not_answered(&mut other, &mut session).await?;
    assert_eq!(other.acknowledged.len(), 0);

    // Killed in this state, started in this state (P6).
    node.kill().await?;
    disk.fill()?;
    node.start_again().await?;
    disk.fill()?;
    for client in [&mut client, &mut other] {
        client.set_addr(node.mqtt());
        assert!(client.connect().await?, "a session that was acknowledged is there");
    }
    let mut session = Session::open("stays", node.mqtt()).await?;
    assert!(session.present, "P1: so is one that was made when there was no room");
    is_not_answered(&mut client, &mut session).await?;
    is_not_answered(&mut other, &mut session).await?;
    let while_full = client.acknowledged.len();

    // Room returns: what waited is answered, by the same process, on the same connections.
    disk.give_back()?;
    client.settle_all().await?;
    other.settle_all().await?;
    assert!(client.acknowledged.len() > while_full);
    for _ in 0..100 {
        publish(&mut client, "publisher").await?;
        client.settle(16).await?;
    }
    client.settle_all().await?;

    // Full again, and now the uplink works: cursors are written without room, and make some.
    disk.fill()?;
    publish_until_full_again(&mut client, "publisher", &mut session).await?;
    proxy.set(Link::Works);
    client.settle_all().await?;
    arrives(&auditor, &[("publisher", &client), ("other", &other)]).await?;
    assert!(disk.filler().exists(), "nobody gave anything back but the node itself");
    println!("full disk: {} acknowledged, all arrived", client.acknowledged.len() + other.acknowledged.len());
    node.stop().await
}

/// The log says it only once per time, so the second time is seen by answers that stay away while others come.
async fn publish_until_full_again(client: &mut RawClient, name: &str, session: &mut Session) -> Result {
    let publishing = async {
        loop {
            let before = client.acknowledged.len();
            while client.in_flight() < 200 {
                publish(client, name).await?;
                client.read_for(Duration::from_micros(10)).await?;
            }
            session.subscribe("third/+").await?;
            client.read_for(Duration::from_millis(500)).await?;
            if client.acknowledged.len() == before {
                return Ok(());
            }
        }
    };
    tokio::time::timeout(PATIENCE, publishing).await?
}

/// What a file system that went read-only refuses to those who have files open: the system does that only after an error of
/// the device, so strace does it here.
const REFUSED: &str =
    "pwrite64,fdatasync,fsync,fallocate,ftruncate,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat";

/// Attaches to the node, and refuses from here on; `None`, said loudly, where that is not allowed.
async fn make_read_only(strace: &Path, node: &Node) -> Result<Option<Child>> {
    let mut child = tokio::process::Command::new(strace)
        .args(["-f", "-o", "/dev/null", "-e", &format!("trace={REFUSED}")])
        .args(["-e", &format!("inject={REFUSED}:error=EROFS"), "-p", &node.pid()?.to_string()])
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(child.stderr.take().ok_or("no stderr")?).lines();
    let first = tokio::time::timeout(PATIENCE, lines.next_line()).await??.unwrap_or_default();
    if first.contains("attached") {
        // Read on, or its pipe fills.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        return Ok(Some(child));
    }
    println!("SKIPPED a read-only file system: strace may not attach: {first}");
    Ok(None)
}

async fn make_writable(mut strace: Child) -> Result {
    let pid = strace.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
    rustix::process::kill_process(pid.ok_or("strace has ended")?, rustix::process::Signal::INT)?;
    tokio::time::timeout(PATIENCE, strace.wait()).await??;
    Ok(())
}

#[tokio::test]
async fn a_read_only_file_system_is_survived() -> Result {
    let Some(strace) = foreign("strace", "a read-only file system") else { return Ok(()) };
    let hub = Hub::start().await?;
    let auditor = Auditor::start(hub.addr(), "#").await?;
    let mut node = Node::start(&config(hub.addr())).await?;
    let mut client = publisher(&node).await?;

    let Some(refusing) = make_read_only(&strace, &node).await? else { return Ok(()) };
    let acknowledged = client.acknowledged.len();
    for attempt in 0..3 {
        publish(&mut client, "publisher").await?;
        let told = tokio::time::timeout(PATIENCE, client.settle_all()).await?;
        assert!(told.is_err(), "nothing can be stored, and the connection says so");
        // A session that is there needs nothing written to go on, or its client is told to come later.
        if client.connect().await.is_err() {
            println!("refused at attempt {attempt}");
            break;
        }
    }
    assert_eq!(client.acknowledged.len(), acknowledged, "P1: answered what cannot have been stored");

    make_writable(refusing).await?;
    eventually("the client is served again", async || client.connect().await.ok()).await?;
    client.settle_all().await?;
    publish(&mut client, "publisher").await?;
    client.settle_all().await?;
    assert!(client.acknowledged.len() > acknowledged);
    arrives(&auditor, &[("publisher", &client)]).await?;
    println!("read-only: {} acknowledged, all arrived", client.acknowledged.len());
    node.stop().await
}
