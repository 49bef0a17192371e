//! The scene of the quickstart: an upstream hub, the node, simulated devices, and what flows between them.
//!
//! Hub and node are the real programs, started as processes; two MQTT devices are simulated here with rumqttc, a CoAP device
//! by hand: none of them shares code with the node. At the end stands a balance: published, acknowledged, arrived, missing.

mod balance;
mod coap;
mod device;
mod process;

use balance::Balance;
use clap::Parser;
use process::{Hub, Node, Outcome};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[derive(Parser)]
#[command(about = "The quickstart's scene; start it with `cargo xtask quickstart`")]
struct Args {
    /// Takes the hub away for so many seconds, then brings it back
    #[arg(long, value_name = "SECONDS")]
    outage: Option<u64>,
    /// Kills the node with SIGKILL in the middle and starts it again
    #[arg(long)]
    kill: bool,
    /// Ends by itself after so many seconds (otherwise: Ctrl-C)
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
}

/// How long things are shown running before something is broken, and after it was mended.
const SHOWN: Duration = Duration::from_secs(5);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let args = Args::parse();
    let dir = PathBuf::from(std::env::var_os("EDGE_BIN_DIR").unwrap_or_else(|| "target/debug".into()));
    let balance = Arc::new(Balance::default());
    let work = dir.join("quickstart");
    // A fresh scene each time: the balance counts from nothing.
    match std::fs::remove_dir_all(&work) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => std::fs::create_dir_all(&work)?,
    }

    let mut hub = Hub::start(&dir, 0, Arc::clone(&balance)).await?;
    let mut node = Node::start(&dir, &work, hub.port()).await?;
    introduce(&node, &hub);
    let mut devices: Vec<_> = ["thermometer-1", "thermometer-2"]
        .map(|name| tokio::spawn(device::run(name, node.port(), Arc::clone(&balance))))
        .into();
    devices.push(tokio::spawn(coap::run("thermometer-3", node.coap(), Arc::clone(&balance))));

    let scene = async {
        tokio::time::sleep(SHOWN).await;
        if let Some(seconds) = args.outage {
            outage(&mut hub, &dir, seconds, &node, &balance).await?;
        }
        if args.kill {
            kill(&mut node).await?;
        }
        match args.seconds {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None if args.outage.is_some() || args.kill => {
                tokio::time::sleep(SHOWN).await;
                say("the scene is over; the node goes on until Ctrl-C");
                std::future::pending::<()>().await;
            }
            None => std::future::pending::<()>().await,
        }
        Outcome::Ok(())
    };
    tokio::select! {
        result = scene => result?,
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }

    for device in devices {
        device.abort();
    }
    balance.settle(Duration::from_secs(10)).await;
    let stopped = node.stop().await;
    hub.stop().await?;
    let good = balance.print();
    stopped?;
    if good { Ok(()) } else { Err("acknowledged messages are missing upstream: please report this".into()) }
}

fn introduce(node: &Node, hub: &Hub) {
    say(&format!("upstream hub (rumqttd) on 127.0.0.1:{}, node on 127.0.0.1:{}", hub.port(), node.port()));
    println!(
        "\n  publish from another terminal:\n\n      mosquitto_pub -p {} -q 1 -t plant/9/temp -m '{{\"celsius\": 21.5}}'\n\n  \
         the same over CoAP:\n\n      coap-client -m post -e '{{\"celsius\": 21.5}}' coap://{}/ps/plant/9/temp\n\n  \
         send a command down to a device:\n\n      mosquitto_pub -p {} -V mqttv5 -q 1 -k 30 -t cmd/thermometer-1 -m 'blink'\n\n  \
         ask the node:\n\n      {}\n",
        node.port(),
        node.coap(),
        hub.port(),
        node.status_line()
    );
}

async fn outage(
    hub: &mut Hub,
    dir: &std::path::Path,
    seconds: u64,
    node: &Node,
    balance: &Arc<Balance>,
) -> Outcome {
    let port = hub.port();
    say(&format!(
        "OUTAGE: the hub is gone for {seconds} s; devices go on, their messages wait on the node's disk"
    ));
    hub.stop().await?;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    node.print_status().await;
    *hub = Hub::start(dir, port, Arc::clone(balance)).await?;
    say("the hub is BACK: the backlog drains, nobody has to publish for that");
    tokio::time::sleep(SHOWN).await;
    Ok(())
}

async fn kill(node: &mut Node) -> Outcome {
    say("SIGKILL to the node, in the middle of everything");
    node.kill().await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    node.start_again().await?;
    say(
        "the node is back on the same data directory; devices reconnect and resend what was not acknowledged",
    );
    tokio::time::sleep(SHOWN).await;
    Ok(())
}

fn say(what: &str) {
    println!("-- {what}");
}
