//! coap-load: one epoll thread, many CoAP endpoints with one confirmable request each in flight. See --help.
#![allow(
    missing_docs,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    clippy::let_underscore_must_use,
    reason = "a measuring tool: it may stop on a surprise"
)]
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

const HELP: &str = "coap-load [options]       one JSON object on stdout

  Every endpoint is a socket of its own and sends a confirmable request, waits for its response, sends the next one; a request
  that is not answered is sent again after 2 s, 4 s, ... under the same message id (RFC 7252 section 4.2).
  --port P (5683)      --host H (127.0.0.1)
  --clients K (1)      endpoints
  --payload BYTES (100)
  --method post|put (post)   --path ps/load/%c (%c is replaced by the endpoint's number)
  --secs S (5)  --warmup S (0.5)   the warm-up is not counted
  --known N            instead: N requests from N addresses of 127.0.0.0/8; RSS per known endpoint
  --pid PID            CPU time and RSS of the server from /proc, over the measured period";

const ACK_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone)]
struct Args {
    addr: SocketAddr,
    clients: usize,
    payload: usize,
    code: u8,
    path: String,
    secs: f64,
    warmup: f64,
    known: u32,
    pid: Option<u32>,
}

fn args() -> Args {
    let mut words = std::env::args().skip(1);
    let (mut host, mut port) = ("127.0.0.1".to_owned(), 5683u16);
    let mut args = Args {
        addr: SocketAddr::from(([127, 0, 0, 1], 5683)),
        clients: 1,
        payload: 100,
        code: 2,
        path: "ps/load/%c".into(),
        secs: 5.0,
        warmup: 0.5,
        known: 0,
        pid: None,
    };
    while let Some(word) = words.next() {
        if word == "--help" {
            println!("{HELP}");
            std::process::exit(0);
        }
        let Some(value) = words.next() else { usage(&format!("{word} needs a value")) };
        match word.as_str() {
            "--host" => host = value,
            "--port" => port = value.parse().unwrap(),
            "--clients" => args.clients = value.parse().unwrap(),
            "--payload" => args.payload = value.parse().unwrap(),
            "--method" => args.code = if value == "put" { 3 } else { 2 },
            "--path" => args.path = value,
            "--secs" => args.secs = value.parse().unwrap(),
            "--warmup" => args.warmup = value.parse().unwrap(),
            "--known" => args.known = value.parse().unwrap(),
            "--pid" => args.pid = Some(value.parse().unwrap()),
            _ => usage(&format!("{word} is no option")),
        }
    }
    args.addr = format!("{host}:{port}").parse().unwrap();
    args
}

fn usage(why: &str) -> ! {
    eprintln!("{why}\n{HELP}");
    std::process::exit(2)
}

/// A confirmable request: header, token, Uri-Path, Content-Format 50, payload.
fn request(args: &Args, number: usize, id: u16) -> Vec<u8> {
    let mut datagram = vec![0x44, args.code];
    datagram.extend(id.to_be_bytes());
    datagram.extend((number as u32).to_be_bytes());
    let path = args.path.replace("%c", &number.to_string());
    let mut delta = 11u8;
    for segment in path.split('/') {
        assert!(segment.len() < 13, "segments of a path have at most 12 bytes here");
        datagram.push(delta << 4 | segment.len() as u8);
        datagram.extend(segment.bytes());
        delta = 0;
    }
    datagram.extend([0x11, 50, 0xff]);
    let head = format!("{{\"n\":{number},\"id\":{id},\"v\":\"");
    let fill = args.payload.saturating_sub(head.len() + 2);
    datagram.extend(head.bytes().chain(std::iter::repeat_n(b'x', fill)).chain(*b"\"}"));
    datagram
}

struct Endpoint {
    socket: UdpSocket,
    number: usize,
    id: u16,
    datagram: Vec<u8>,
    sent: Instant,
    timeout: Duration,
}

impl Endpoint {
    fn next(&mut self, args: &Args) {
        self.id = self.id.wrapping_add(1);
        self.datagram = request(args, self.number, self.id);
        self.timeout = ACK_TIMEOUT;
        self.send(args);
    }

    fn send(&mut self, args: &Args) {
        self.sent = Instant::now();
        // What the network does not take is sent again later.
        let _ = self.socket.send_to(&self.datagram, args.addr);
    }

    /// Whether there was a datagram; with the code of the response to what is in flight, if it was that. A separate response
    /// is acknowledged.
    fn receive(&mut self, args: &Args, buffer: &mut [u8]) -> Option<Option<u8>> {
        let (length, _) = self.socket.recv_from(buffer).ok()?;
        let answer = &buffer[..length];
        if length < 4 {
            return Some(None);
        }
        if answer[0] >> 4 & 3 == 0 {
            let kind = if answer[1] == 0 { 0x70 } else { 0x60 };
            let _ = self.socket.send_to(&[kind, 0, answer[2], answer[3]], args.addr);
        }
        let is_mine = answer[1] != 0 && answer.get(4..8) == self.datagram.get(4..8);
        Some(is_mine.then_some(answer[1]))
    }
}

#[derive(Default)]
struct Tally {
    ok: u64,
    refused: u64,
    again: u64,
    latencies_us: Vec<u32>,
}

fn main() {
    let args = args();
    if args.known > 0 {
        return known(&args);
    }
    let mut poll = Poll::new().unwrap();
    let mut endpoints: Vec<Endpoint> = (0..args.clients)
        .map(|number| {
            let mut socket = UdpSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
            poll.registry().register(&mut socket, Token(number), Interest::READABLE).unwrap();
            let (datagram, sent) = (Vec::new(), Instant::now());
            Endpoint { socket, number, id: number as u16, datagram, sent, timeout: ACK_TIMEOUT }
        })
        .collect();
    endpoints.iter_mut().for_each(|endpoint| endpoint.next(&args));
    run(&args, &mut poll, &mut endpoints, args.warmup);
    let (before, start) = (args.pid.map(cpu_us), Instant::now());
    let mut tally = run(&args, &mut poll, &mut endpoints, args.secs);
    let secs = start.elapsed().as_secs_f64();
    let cpu =
        args.pid.zip(before).map(|(pid, before)| (cpu_us(pid) - before) as f64 / tally.ok.max(1) as f64);
    tally.latencies_us.sort_unstable();
    let at = |part: f64| {
        let index = (tally.latencies_us.len() as f64 * part) as usize;
        tally.latencies_us.get(index).copied().unwrap_or_default()
    };
    println!(
        "{{\"clients\":{},\"payload\":{},\"secs\":{secs:.2},\"answered\":{},\"per_s\":{:.0},\"refused\":{},\"again\":{},\"p50_us\":{},\"p99_us\":{},\"cpu_us_per_request\":{},\"rss_kib\":{}}}",
        args.clients,
        args.payload,
        tally.ok,
        tally.ok as f64 / secs,
        tally.refused,
        tally.again,
        at(0.5),
        at(0.99),
        cpu.map_or("null".into(), |cpu| format!("{cpu:.2}")),
        args.pid.map_or("null".into(), |pid| rss_kib(pid).to_string()),
    );
}

fn run(args: &Args, poll: &mut Poll, endpoints: &mut [Endpoint], secs: f64) -> Tally {
    let mut tally = Tally::default();
    let mut events = Events::with_capacity(1_024);
    let mut buffer = [0; 2_048];
    let end = Instant::now() + Duration::from_secs_f64(secs);
    let mut swept = Instant::now();
    loop {
        poll.poll(&mut events, Some(Duration::from_millis(100))).unwrap();
        let now = Instant::now();
        if now >= end {
            return tally;
        }
        for event in &events {
            let endpoint = &mut endpoints[event.token().0];
            // Until the socket has nothing more: readiness is told once.
            while let Some(answer) = endpoint.receive(args, &mut buffer) {
                let Some(code) = answer else { continue };
                if code >> 5 == 2 {
                    tally.ok += 1;
                    tally.latencies_us.push(endpoint.sent.elapsed().as_micros() as u32);
                } else {
                    tally.refused += 1;
                }
                endpoint.next(args);
            }
        }
        if now.duration_since(swept) > Duration::from_millis(200) {
            swept = now;
            for endpoint in endpoints.iter_mut().filter(|e| now.duration_since(e.sent) > e.timeout) {
                endpoint.timeout *= 2;
                tally.again += 1;
                endpoint.send(args);
            }
        }
    }
}

/// Memory of a server per endpoint that it knows.
fn known(args: &Args) {
    let pid = args.pid.unwrap_or_else(|| usage("--known needs --pid"));
    let ask = |from: Ipv4Addr, number: u32| {
        let socket = std::net::UdpSocket::bind((from, 0)).unwrap();
        socket.set_read_timeout(Some(ACK_TIMEOUT)).unwrap();
        let mut buffer = [0; 256];
        loop {
            socket.send_to(&request(args, number as usize, number as u16), args.addr).unwrap();
            if socket.recv_from(&mut buffer).is_ok() {
                return;
            }
        }
    };
    for number in 0..500 {
        ask(Ipv4Addr::LOCALHOST, number);
    }
    let before = rss_kib(pid);
    for number in 0..args.known {
        let [_, a, b, c] = number.to_be_bytes();
        ask(Ipv4Addr::new(127, 32 + a, b, c), number);
    }
    let after = rss_kib(pid);
    let each = (after.saturating_sub(before) * 1_024) / u64::from(args.known);
    println!(
        "{{\"known\":{},\"rss_before_kib\":{before},\"rss_after_kib\":{after},\"bytes_each\":{each}}}",
        args.known
    );
}

fn cpu_us(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks * 1_000_000 / rustix::param::clock_ticks_per_second()
}

fn rss_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
