//! What an idle client costs.

use super::super::connection::TASK_BYTES;
use super::*;
use std::io::{Read as _, Write as _};

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size()
}

#[test]
fn a_connection_is_a_small_task() {
    println!("task of a connection: {TASK_BYTES} bytes");
    println!(
        "machine: {}, session: {}, link: {}",
        size_of::<Machine>(),
        size_of::<crate::session::Session>(),
        size_of::<Link>()
    );
    const { assert!(TASK_BYTES <= 640) };
    const { assert!(size_of::<crate::session::Session>() <= 512) };
}

/// In a process of its own: other tests would be in the figure.
#[test]
fn an_idle_client_costs_less_than_four_kibibytes() {
    let program = std::env::current_exe().unwrap();
    let name = "server::tests::idle::idle_clients_measured_alone";
    let arguments = ["--exact", name, "--ignored", "--nocapture", "--test-threads=1"];
    let output = std::process::Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{}", said.lines().find(|line| line.contains("resident")).unwrap_or("no figure"));
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

/// Real sockets, plain TCP, each with a session, a keep alive and one subscription; the scripted hub's books are in the
/// figure, too. Clients are bare descriptors.
#[tokio::test]
#[ignore = "run by the test above, alone in its process"]
async fn idle_clients_measured_alone() {
    const CLIENTS: usize = 2000;
    let server = Server::new(|_| {});
    let address = server.address;
    let connect_all = move |from: usize, count: usize| {
        let mut clients = Vec::with_capacity(count);
        for n in from..from + count {
            let mut client = std::net::TcpStream::connect(address).unwrap();
            client.write_all(&clean(V3, &format!("device-{n:05}")).encode()).unwrap();
            client.read_exact(&mut [0; 4]).unwrap();
            client.write_all(&wire::subscribe(V3, 1, &[(&format!("command/{n:05}"), 1)])).unwrap();
            client.read_exact(&mut [0; 5]).unwrap();
            clients.push(client);
        }
        clients
    };
    // The first ones pay for buffers, threads and tables.
    let first = tokio::task::spawn_blocking(move || connect_all(0, 100)).await.unwrap();
    let before = resident_bytes();
    let rest = tokio::task::spawn_blocking(move || connect_all(100, CLIENTS)).await.unwrap();
    let each = resident_bytes().saturating_sub(before) / CLIENTS;
    println!("resident memory per idle client: {each} bytes");
    assert!(each <= 4096, "{each} bytes");
    assert_eq!(server.sessions.counts().0, first.len() + rest.len());
}
