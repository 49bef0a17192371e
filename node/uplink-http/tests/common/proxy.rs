//! A TCP proxy in between, which can stop passing anything on without closing anything: a black hole without FIN, as a
//! mobile network makes them.

use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(crate) struct Proxy {
    port: u16,
    open: Arc<watch::Sender<bool>>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn before(port: u16) -> Proxy {
        Proxy::at(TcpListener::bind("127.0.0.1:0").await.unwrap(), port)
    }

    /// Behind a listener that there is already.
    pub(crate) fn at(listener: TcpListener, port: u16) -> Proxy {
        let own = listener.local_addr().unwrap().port();
        let open = Arc::new(watch::Sender::new(true));
        let passing = Arc::clone(&open);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(join(
                    client,
                    SocketAddr::from(([127, 0, 0, 1], port)),
                    passing.subscribe(),
                ));
            }
        });
        Proxy { port: own, open, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://localhost:{}/", self.port)
    }

    /// From now on connections are accepted and bytes are taken, and nothing comes out at the other end.
    pub(crate) fn swallow(&self) {
        self.open.send_replace(false);
    }

    /// Passes new connections on again; what was swallowed stays so.
    pub(crate) fn pass(&self) {
        self.open.send_replace(true);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn join(client: TcpStream, to: SocketAddr, open: watch::Receiver<bool>) {
    let Ok(server) = TcpStream::connect(to).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::join!(pump(from_client, to_server, open.clone()), pump(from_server, to_client, open));
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, open: watch::Receiver<bool>) {
    let mut buf = vec![0; 16 * 1_024];
    let mut swallowed = false;
    loop {
        let n = from.read(&mut buf).await.unwrap_or(0);
        swallowed |= !*open.borrow();
        if swallowed && n == 0 {
            // Not even the end comes through.
            return std::future::pending().await;
        }
        if n == 0 || (!swallowed && to.write_all(&buf[..n]).await.is_err()) {
            return;
        }
    }
}
