//! A simulated CoAP device: posts a reading every second, confirmable, and sends it again until it is answered (RFC 7252
//! section 4.2). It writes its datagrams itself and shares no code with the node.

use crate::balance::Balance;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

const EVERY: Duration = Duration::from_secs(1);
const ACK_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_RETRANSMIT: u32 = 4;
/// 2.04 Changed
const CHANGED: u8 = 0x44;

pub(crate) async fn run(name: &'static str, node: SocketAddr, balance: Arc<Balance>) {
    for number in 0u64.. {
        balance.published();
        // Until it is on the node's disk; the node may be killed and come back meanwhile.
        while !post(name, number, node).await.unwrap_or(false) {
            tokio::time::sleep(EVERY).await;
        }
        balance.acknowledged((name.to_owned(), number));
        tokio::time::sleep(EVERY).await;
    }
}

/// One confirmable POST; true if it was answered with 2.04.
async fn post(name: &str, number: u64, node: SocketAddr) -> std::io::Result<bool> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    socket.connect(node).await?;
    let request = request(name, number);
    let mut timeout = ACK_TIMEOUT;
    let mut buffer = [0; 1280];
    for _ in 0..=MAX_RETRANSMIT {
        // A refused datagram is a node that is away: it is sent again like a lost one.
        let sent = socket.send(&request).await;
        let until = Instant::now() + timeout;
        timeout *= 2;
        if sent.is_err() {
            tokio::time::sleep_until(until).await;
            continue;
        }
        while let Ok(received) = timeout_at(until, socket.recv(&mut buffer)).await {
            let answer = received.ok().and_then(|length| buffer.get(..length)).unwrap_or_default();
            let Some([first, code, id_high, id_low, ..]) = answer.first_chunk::<4>() else {
                tokio::time::sleep_until(until).await;
                break;
            };
            if first & 0x30 == 0 {
                // A response apart is confirmable itself.
                socket.send(&[0x60, 0, *id_high, *id_low]).await?;
            }
            if *code != 0 {
                return Ok(*code == CHANGED);
            }
        }
    }
    Ok(false)
}

/// `POST /ps/plant/{name}/temp?ep={name}` with a token of its own.
fn request(name: &str, number: u64) -> Vec<u8> {
    let [.., high, low] = number.to_be_bytes();
    let mut datagram = vec![0x42, 0x02, high, low, high, low];
    // Uri-Path is option 11, Content-Format 12, Uri-Query 15 (RFC 7252 section 3.1: number as the difference to the last).
    option(&mut datagram, 11, b"ps");
    option(&mut datagram, 0, b"plant");
    option(&mut datagram, 0, name.as_bytes());
    option(&mut datagram, 0, b"temp");
    option(&mut datagram, 1, &[50]);
    option(&mut datagram, 3, format!("ep={name}").as_bytes());
    datagram.push(0xff);
    let celsius = 15.0 + f64::from(u32::try_from(number % 50).unwrap_or(0)) / 10.0;
    datagram.extend(format!(r#"{{"device":"{name}","n":{number},"celsius":{celsius:.1}}}"#).into_bytes());
    datagram
}

/// One option; values up to 268 bytes.
fn option(datagram: &mut Vec<u8>, delta: u8, value: &[u8]) {
    let length = u8::try_from(value.len()).unwrap_or(u8::MAX);
    if length < 13 {
        datagram.push(delta << 4 | length);
    } else {
        datagram.extend([delta << 4 | 13, length - 13]);
    }
    datagram.extend(value);
}
