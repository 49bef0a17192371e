//! mqtt-load: one epoll thread, many MQTT 3.1.1 clients, and a sink that speaks 3.1.1 and 5. See --help.
#![allow(
    missing_docs,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    clippy::let_underscore_must_use,
    reason = "a measuring tool: it may stop on a surprise"
)]
mod codec;
mod content;
mod hist;
use content::Content;
use hist::Hist;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

const HELP: &str = "mqtt-load <command> [options]       one JSON object on stdout

commands
  pub    publish from --clients clients; latency is PUBLISH -> PUBACK
  fan    as pub, with --subs subscribers to the same topics: also end-to-end latency, loss, order
  sub    subscribe only; audits loss, duplicates and order of what pub/fan sent; ends at --count
         messages or after --quiet seconds without one
  sink   a minimal upstream broker on --port: acknowledges everything, delivers nothing, audits like
         sub; ends at --count messages, or --quiet seconds after the last one (--secs before the first)
  idle   open --clients connections and hold them --secs; broker memory per connection

load
  --host H (127.0.0.1)  --port P (1883)  --clients K (1)  --subs S (1)  --qos 0|1 (1)
  --payload BYTES (100; at least 24)     --inflight W (16) unacknowledged messages per client
  --content telemetry|random (telemetry) JSON whose digits change per message, or incompressible bytes
  --secs S (5)          --count N        stop after N messages in all (instead of --secs)
  --rate R              open loop: R messages/s in all; latency counts from the intended send time
  --warmup S (0.5)      not counted in latency
sessions
  --topic T (load/%c)   %c is replaced by the client number   --filter F (load/#)
  --prefix P (l)        client id prefix   --persistent 0|1 (0) clean session off
  --start-seq N (0)     first sequence number (continue an earlier run)
  --resume 0|1 (0)      sub: the sessions are there: all clients connect at once, nobody waits for a CONNACK or subscribes
  --session 0|1 (0)     sink: answer a clean-session-off CONNECT with session present (a returning cloud)
  --user U --pass P     --keepalive S (600)
audit
  --quiet S (5)         sub: give up after S seconds without a message
  --expect N            sub, fan: number of distinct messages that must arrive; exit status 1 if fewer
  --ack-log FILE        pub: append 'publisher sequence' of the last acknowledged message per client
measured process
  --pid PID[,PID]       CPU time and RSS from /proc, over the measured period";

#[derive(Clone)]
struct Args {
    cmd: String,
    addr: std::net::SocketAddr,
    clients: usize,
    subs: usize,
    qos: u8,
    payload: usize,
    random: bool,
    inflight: usize,
    secs: f64,
    count: u64,
    rate: f64,
    warmup: f64,
    topic: String,
    filter: String,
    prefix: String,
    persistent: bool,
    start_seq: u64,
    user: Option<String>,
    pass: String,
    keepalive: u16,
    quiet: f64,
    expect: u64,
    ack_log: Option<String>,
    pids: Vec<u32>,
    session: bool,
    resume: bool,
}

type Res<T> = Result<T, Box<dyn std::error::Error>>;

fn args() -> Res<Args> {
    let mut it = std::env::args().skip(1);
    let cmd = it.next().unwrap_or_else(|| "--help".into());
    if cmd.contains("help") || cmd == "-h" {
        println!("{HELP}");
        std::process::exit(0);
    }
    let mut a = Args {
        cmd,
        addr: ([127, 0, 0, 1], 1883).into(),
        clients: 1,
        subs: 1,
        qos: 1,
        payload: 100,
        random: false,
        inflight: 16,
        secs: 5.0,
        count: 0,
        rate: 0.0,
        warmup: 0.5,
        topic: "load/%c".into(),
        filter: "load/#".into(),
        prefix: "l".into(),
        persistent: false,
        start_seq: 0,
        user: None,
        pass: String::new(),
        keepalive: 600,
        quiet: 5.0,
        expect: 0,
        ack_log: None,
        pids: vec![],
        session: false,
        resume: false,
    };
    let (mut host, mut port) = (a.addr.ip().to_string(), a.addr.port());
    while let Some(k) = it.next() {
        let v = it.next().ok_or_else(|| format!("{k}: value missing"))?;
        match k.as_str() {
            "--host" => host = v,
            "--port" => port = v.parse()?,
            "--clients" => a.clients = v.parse()?,
            "--subs" => a.subs = v.parse()?,
            "--qos" => a.qos = v.parse()?,
            "--payload" => a.payload = v.parse::<usize>()?.max(24),
            "--content" => {
                a.random = match v.as_str() {
                    "random" => true,
                    "telemetry" => false,
                    other => return Err(format!("--content {other}: telemetry or random").into()),
                }
            }
            "--inflight" => a.inflight = v.parse::<usize>()?.clamp(1, 60_000),
            "--secs" => a.secs = v.parse()?,
            "--count" => a.count = v.parse()?,
            "--rate" => a.rate = v.parse()?,
            "--warmup" => a.warmup = v.parse()?,
            "--topic" => a.topic = v,
            "--filter" => a.filter = v,
            "--prefix" => a.prefix = v,
            "--persistent" => a.persistent = v == "1",
            "--start-seq" => a.start_seq = v.parse()?,
            "--user" => a.user = Some(v),
            "--pass" => a.pass = v,
            "--keepalive" => a.keepalive = v.parse()?,
            "--quiet" => a.quiet = v.parse()?,
            "--expect" => a.expect = v.parse()?,
            "--ack-log" => a.ack_log = Some(v),
            "--session" => a.session = v == "1",
            "--resume" => a.resume = v == "1",
            "--pid" => a.pids = v.split(',').map(str::parse).collect::<Result<_, _>>()?,
            _ => return Err(format!("unknown option {k}; see --help").into()),
        }
    }
    a.addr = std::net::ToSocketAddrs::to_socket_addrs(&(host.as_str(), port))?.next().ok_or("no address")?;
    Ok(a)
}

/// CLOCK_MONOTONIC in nanoseconds: comparable between processes of one machine.
fn now() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// User plus system CPU seconds and resident bytes of the measured processes.
fn measured(pids: &[u32]) -> (f64, u64) {
    let hz = rustix::param::clock_ticks_per_second() as f64;
    let (mut cpu, mut rss) = (0.0, 0);
    for p in pids {
        let stat = std::fs::read_to_string(format!("/proc/{p}/stat")).unwrap_or_default();
        if let Some((_, rest)) = stat.rsplit_once(") ") {
            let f: Vec<&str> = rest.split(' ').collect();
            let tick = |i: usize| f.get(i).and_then(|x| x.parse::<f64>().ok()).unwrap_or(0.0);
            cpu += (tick(11) + tick(12)) / hz;
        }
        let status = std::fs::read_to_string(format!("/proc/{p}/status")).unwrap_or_default();
        rss += status
            .lines()
            .find_map(|l| l.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or(0)
            * 1024;
    }
    (cpu, rss)
}

struct Conn {
    s: TcpStream,
    input: Vec<u8>,
    out: Vec<u8>,
    sent: usize,
    writable: bool,
    open: bool,
    publisher: bool,
    id: u32,
    topic: String,
    session: bool,
    /// The peer spoke MQTT 5 in its CONNECT (sink only).
    v5: bool,
    pid: u16,
    seq: u64,
    acked: u64,
    flight: VecDeque<(u16, u64, bool)>, // packet id, time, counts in latency
    done: VecDeque<bool>,
}

/// Seen sequence numbers per publisher.
#[derive(Default)]
struct Audit {
    seen: std::collections::HashMap<u32, (Vec<u64>, u64)>,
    distinct: u64,
    dup: u64,
    late: u64,
}
impl Audit {
    fn add(&mut self, id: u32, seq: u64) {
        let (bits, max) = self.seen.entry(id).or_default();
        let (w, b) = ((seq / 64) as usize, 1u64 << (seq % 64));
        if bits.len() <= w {
            bits.resize(w + 1, 0);
        }
        if bits[w] & b != 0 {
            self.dup += 1;
            return;
        }
        bits[w] |= b;
        self.distinct += 1;
        if seq < *max {
            self.late += 1;
        }
        *max = (*max).max(seq);
    }
}

/// Takes the place of the cloud: acknowledges and audits what a bridge forwards.
fn sink(a: &Args) -> Res<bool> {
    let mut poll = Poll::new()?;
    let mut l = mio::net::TcpListener::bind(a.addr)?;
    const LISTEN: Token = Token(usize::MAX);
    poll.registry().register(&mut l, LISTEN, Interest::READABLE)?;
    let mut conns: Vec<Conn> = vec![];
    let mut events = Events::with_capacity(256);
    let mut buf = vec![0u8; 256 << 10];
    let mut t = Totals::default();
    let start = now();
    let (mut first, mut last) = (0u64, 0u64);
    loop {
        let time = now();
        let quiet = (time - last.max(start)) as f64 / 1e9;
        if (a.count > 0 && t.audit.distinct >= a.count)
            || (first > 0 && quiet > a.quiet)
            || (first == 0 && quiet > a.secs)
        {
            break;
        }
        if let Err(e) = poll.poll(&mut events, Some(Duration::from_millis(50)))
            && e.kind() != ErrorKind::Interrupted
        {
            return Err(e.into());
        }
        let before = t.received;
        for e in events.iter() {
            if e.token() == LISTEN {
                while let Ok((mut s, _)) = l.accept() {
                    let _ = s.set_nodelay(true);
                    let token = Token(conns.len());
                    poll.registry().register(&mut s, token, Interest::READABLE | Interest::WRITABLE)?;
                    conns.push(Conn::new(s, 0, a));
                }
                continue;
            }
            let c = &mut conns[e.token().0];
            if e.is_writable() {
                c.writable = true;
            }
            if c.open && (e.is_readable() && !read_conn(c, &mut t, &mut buf) || !c.flush()) {
                c.open = false;
                let _ = poll.registry().deregister(&mut c.s);
                let _ = c.s.shutdown(std::net::Shutdown::Both);
                t.closed += 1;
            }
        }
        if t.received > before {
            last = now();
            if first == 0 {
                first = time;
            }
        }
    }
    let span = last.saturating_sub(first).max(1_000_000) as f64 / 1e9;
    let missing = a.expect.saturating_sub(t.audit.distinct);
    println!(
        "{{\"cmd\":\"sink\",\"received\":{},\"distinct\":{},\"duplicates\":{},\"out_of_order\":{},\"missing\":{missing},\"connections\":{},\"first_after_s\":{:.2},\"secs\":{span:.2},\"msgs_per_s\":{:.0}}}",
        t.received,
        t.audit.distinct,
        t.audit.dup,
        t.audit.late,
        conns.len(),
        first.saturating_sub(start) as f64 / 1e9,
        t.received as f64 / span
    );
    Ok(missing == 0)
}

fn open(a: &Args, n: usize, publisher: bool) -> Res<Conn> {
    let mut s = std::net::TcpStream::connect_timeout(&a.addr, Duration::from_secs(10))?;
    s.set_nodelay(true)?;
    s.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut b = vec![];
    let id = format!("{}{}{n}", a.prefix, if publisher { "p" } else { "s" });
    let user = a.user.as_deref().map(|u| (u, a.pass.as_str()));
    codec::connect(&mut b, &id, !a.persistent, a.keepalive, user);
    s.write_all(&b)?;
    if a.resume {
        s.set_nonblocking(true)?;
        return Ok(Conn::new(TcpStream::from_std(s), n, a));
    }
    let mut ack = [0u8; 4];
    s.read_exact(&mut ack)?;
    if ack[0] != 0x20 || ack[3] != 0 {
        return Err(format!("client {id}: CONNACK {ack:?}").into());
    }
    let mut out = vec![];
    if !publisher {
        codec::subscribe(&mut out, 1, &a.filter, a.qos);
    }
    s.set_nonblocking(true)?;
    let mut c = Conn::new(TcpStream::from_std(s), n, a);
    c.out = out;
    c.publisher = publisher;
    Ok(c)
}

impl Conn {
    fn new(s: TcpStream, n: usize, a: &Args) -> Conn {
        Conn {
            s,
            input: vec![],
            out: vec![],
            sent: 0,
            writable: true,
            open: true,
            publisher: false,
            id: n as u32,
            topic: a.topic.replace("%c", &n.to_string()),
            session: a.session,
            v5: false,
            pid: 0,
            seq: a.start_seq,
            acked: a.start_seq,
            flight: VecDeque::new(),
            done: VecDeque::new(),
        }
    }
    fn flush(&mut self) -> bool {
        while self.sent < self.out.len() {
            match self.s.write(&self.out[self.sent..]) {
                Ok(0) => return false,
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.writable = false;
                    return true;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        self.out.clear();
        self.sent = 0;
        true
    }
    fn publish(&mut self, qos: u8, t: u64, counts: bool, content: &mut Content) {
        let payload = content.next_message();
        self.pid = self.pid % 65_000 + 1;
        payload[..4].copy_from_slice(&0x4c4f_4144u32.to_le_bytes());
        payload[4..8].copy_from_slice(&self.id.to_le_bytes());
        payload[8..16].copy_from_slice(&self.seq.to_le_bytes());
        payload[16..24].copy_from_slice(&t.to_le_bytes());
        codec::publish_head(&mut self.out, &self.topic, qos, self.pid, payload.len());
        self.out.extend_from_slice(payload);
        self.seq += 1;
        if qos > 0 {
            self.flight.push_back((self.pid, t, counts));
            self.done.push_back(false);
        }
    }
    fn ack(&mut self, pid: u16) -> Option<(u64, bool)> {
        let i = self.flight.iter().position(|f| f.0 == pid)?;
        if self.done[i] {
            return None;
        }
        self.done[i] = true;
        let r = (self.flight[i].1, self.flight[i].2);
        while self.done.front() == Some(&true) {
            self.done.pop_front();
            self.flight.pop_front();
            self.acked += 1;
        }
        Some(r)
    }
}

#[derive(Default)]
struct Totals {
    sent: u64,
    acked: u64,
    received: u64,
    closed: u64,
    ack: Hist,
    e2e: Hist,
    audit: Audit,
    refused: u64,
}

/// Requested QoS of a SUBSCRIBE with one filter, at most 1.
fn a_qos(pk: &[u8]) -> u8 {
    pk.last().map_or(0, |q| q & 1)
}

fn read_conn(c: &mut Conn, t: &mut Totals, buf: &mut [u8]) -> bool {
    loop {
        match c.s.read(buf) {
            Ok(0) => return false,
            Ok(n) => c.input.extend_from_slice(&buf[..n]),
            Err(e) if e.kind() == ErrorKind::WouldBlock => break,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
    let input = std::mem::take(&mut c.input);
    let mut p = 0;
    let time = now();
    while let Some((total, head)) = codec::frame(&input[p..]) {
        let pk = &input[p..p + total];
        match pk[0] >> 4 {
            4 => {
                if let Some((t0, counts)) = c.ack(codec::be16(&pk[head..])) {
                    t.acked += 1;
                    if counts {
                        t.ack.add(time.saturating_sub(t0));
                    }
                }
            }
            3 => {
                let qos = pk[0] >> 1 & 3;
                let tl = usize::from(codec::be16(&pk[head..]));
                let mut at = head + 2 + tl;
                if qos > 0 {
                    codec::puback(&mut c.out, codec::be16(&pk[at..]));
                    at += 2;
                }
                if c.v5 {
                    at = codec::after_properties(pk, at);
                }
                t.received += 1;
                let pl = &pk[at..];
                if pl.len() >= 24 && pl[..4] == 0x4c4f_4144u32.to_le_bytes() {
                    let u = |r: std::ops::Range<usize>| {
                        pl[r].iter().rev().fold(0u64, |a, b| a << 8 | u64::from(*b))
                    };
                    t.audit.add(u(4..8) as u32, u(8..16));
                    t.e2e.add(time.saturating_sub(u(16..24)));
                }
            }
            // the server's side, for `sink`
            1 => {
                let level = head + 2 + usize::from(codec::be16(&pk[head..]));
                let flags = pk.get(level + 1).copied().unwrap_or(2);
                c.v5 = pk.get(level) == Some(&5);
                let present = u8::from(c.session && flags & 2 == 0);
                if c.v5 {
                    c.out.extend_from_slice(&[0x20, 3, present, 0, 0]);
                } else {
                    c.out.extend_from_slice(&[0x20, 2, present, 0]);
                }
            }
            8 => {
                let id = [pk[head], pk[head + 1]];
                if c.v5 {
                    c.out.extend_from_slice(&[0x90, 4, id[0], id[1], 0, a_qos(pk)]);
                } else {
                    c.out.extend_from_slice(&[0x90, 3, id[0], id[1], a_qos(pk)]);
                }
            }
            9 => t.refused += u64::from(pk[total - 1] >= 0x80),
            10 => c.out.extend_from_slice(&[0xb0, 2, pk[head], pk[head + 1]]),
            12 => c.out.extend_from_slice(&[0xd0, 0]),
            14 => return false,
            _ => {}
        }
        p += total;
    }
    c.input = input;
    c.input.drain(..p);
    true
}

fn run(a: &Args) -> Res<bool> {
    let mut poll = Poll::new()?;
    let mut conns: Vec<Conn> = vec![];
    let rss_before = measured(&a.pids).1;
    let t_conn = now();
    if a.cmd == "fan" || a.cmd == "sub" {
        for i in 0..a.subs {
            conns.push(open(a, i, false)?);
        }
    }
    let first_pub = conns.len();
    if a.cmd != "sub" {
        for i in 0..a.clients {
            conns.push(open(a, i, true)?);
        }
    }
    for (i, c) in conns.iter_mut().enumerate() {
        poll.registry().register(&mut c.s, Token(i), Interest::READABLE | Interest::WRITABLE)?;
        c.flush();
    }
    let connect_s = (now() - t_conn) as f64 / 1e9;
    if a.cmd == "fan" {
        std::thread::sleep(Duration::from_millis(300));
    }
    if a.cmd == "idle" {
        std::thread::sleep(Duration::from_secs_f64(a.secs));
        let mut b = [0u8; 16];
        let alive = conns.iter_mut().filter(|c| !matches!((&c.s).read(&mut b), Ok(0))).count();
        let rss = measured(&a.pids).1;
        println!(
            "{{\"cmd\":\"idle\",\"clients\":{},\"alive\":{alive},\"connect_s\":{connect_s:.2},\"connects_per_s\":{:.0},\"rss_before_mib\":{:.2},\"rss_mib\":{:.2},\"rss_per_client_kib\":{:.2}}}",
            a.clients,
            a.clients as f64 / connect_s.max(1e-9),
            rss_before as f64 / 1048576.0,
            rss as f64 / 1048576.0,
            rss.saturating_sub(rss_before) as f64 / 1024.0 / a.clients as f64
        );
        return Ok(alive == a.clients);
    }

    let mut events = Events::with_capacity(1024);
    let mut buf = vec![0u8; 256 << 10];
    let mut payload = Content::new(a.payload, a.random);
    let mut t = Totals::default();
    let publishing = a.cmd != "sub";
    let (cpu0, _) = measured(&a.pids);
    let start = now();
    let (mut last_msg, mut first_msg) = (start, 0u64);
    let mut rr = 0usize;
    let mut rss_peak = 0u64;
    let mut next_rss = start;
    let mut stop_at: Option<u64> = None;
    let mut dirty: Vec<usize> = (first_pub..conns.len()).collect();
    loop {
        let time = now();
        let el = (time - start) as f64 / 1e9;
        if time >= next_rss {
            rss_peak = rss_peak.max(measured(&a.pids).1);
            next_rss = time + 100_000_000;
        }
        let more = publishing && if a.count > 0 { t.sent < a.count } else { el < a.secs };
        if publishing && more {
            let counts = el >= a.warmup || a.count > 0;
            if a.rate > 0.0 {
                let due = ((el * a.rate) as u64).min(if a.count > 0 { a.count } else { u64::MAX });
                let mut blocked = 0;
                while t.sent < due && blocked < a.clients {
                    let i = first_pub + rr % a.clients;
                    rr += 1;
                    let c = &mut conns[i];
                    if !c.open || c.flight.len() >= a.inflight || c.out.len() > 1 << 20 {
                        blocked += 1;
                        continue;
                    }
                    blocked = 0;
                    let intended = start + ((t.sent + 1) as f64 / a.rate * 1e9) as u64;
                    c.publish(a.qos, intended, counts, &mut payload);
                    t.sent += 1;
                    dirty.push(i);
                }
            } else {
                for i in dirty.clone() {
                    let c = &mut conns[i];
                    while c.publisher
                        && c.open
                        && (a.count == 0 || t.sent < a.count)
                        && if a.qos > 0 {
                            c.flight.len() < a.inflight
                        } else {
                            c.out.len() - c.sent < 64 << 10
                        }
                    {
                        c.publish(a.qos, time, counts, &mut payload);
                        t.sent += 1;
                    }
                }
            }
        }
        for i in dirty.drain(..) {
            let c = &mut conns[i];
            if c.open && c.writable && !c.out.is_empty() && !c.flush() {
                c.open = false;
                t.closed += 1;
            }
        }
        let any_open = conns.iter().skip(first_pub).any(|c| c.open) || !publishing;
        let pending = publishing && a.qos > 0 && t.acked < t.sent;
        let undelivered = a.cmd == "fan" && t.audit.distinct < t.sent;
        if publishing && (!more || !any_open) {
            let s = *stop_at.get_or_insert(time);
            let waited = (time - s.max(last_msg)) as f64 / 1e9;
            if !any_open || (!pending && !undelivered) || waited > a.quiet {
                break;
            }
        }
        if !publishing {
            let quiet = (time - last_msg) as f64 / 1e9;
            if (a.count > 0 && t.audit.distinct >= a.count)
                || quiet > a.quiet
                || !conns.iter().any(|c| c.open)
            {
                break;
            }
        }
        let wait = if a.rate > 0.0 && more {
            // epoll rounds up to a millisecond; a short sleep paces more finely
            std::thread::sleep(Duration::from_micros(60));
            Duration::ZERO
        } else {
            Duration::from_millis(50)
        };
        if let Err(e) = poll.poll(&mut events, Some(wait))
            && e.kind() != ErrorKind::Interrupted
        {
            return Err(e.into());
        }
        let before = t.acked + t.received;
        for e in events.iter() {
            let i = e.token().0;
            let c = &mut conns[i];
            if !c.open {
                continue;
            }
            if e.is_writable() {
                c.writable = true;
            }
            if e.is_readable() && !read_conn(c, &mut t, &mut buf) {
                c.open = false;
                t.closed += 1;
                continue;
            }
            dirty.push(i);
        }
        if t.refused > 0 {
            return Err("a subscription was refused".into());
        }
        if t.acked + t.received > before {
            last_msg = now();
            if first_msg == 0 {
                first_msg = time;
            }
        }
        if a.qos == 0 && more && a.rate == 0.0 {
            dirty.extend((first_pub..conns.len()).filter(|i| conns[*i].writable));
        }
    }
    let (cpu1, rss) = measured(&a.pids);
    let end = last_msg.max(start + 1);
    let span = (end - if publishing { start } else { first_msg.max(start) }).max(1_000_000) as f64 / 1e9;
    // From the first connection to the last message.
    let served_s = end.saturating_sub(t_conn) as f64 / 1e9;
    let done = match (a.cmd.as_str(), a.qos) {
        ("pub", 0) => t.sent,
        ("pub", _) => t.acked,
        _ => t.received,
    };
    if let Some(p) = &a.ack_log {
        let mut f = std::fs::OpenOptions::new().create(true).append(true).open(p)?;
        for c in &conns[first_pub..] {
            writeln!(f, "{} {}", c.id, c.acked)?;
        }
    }
    let missing = a.expect.saturating_sub(t.audit.distinct);
    let cpu_us = if done > 0 { (cpu1 - cpu0) * 1e6 / done as f64 } else { 0.0 };
    println!(
        "{{\"cmd\":\"{}\",\"clients\":{},\"qos\":{},\"payload\":{},\"inflight\":{},\"rate\":{},\"secs\":{span:.2},\"connect_s\":{connect_s:.2},\"served_s\":{served_s:.2},\"sent\":{},\"acked\":{},\"received\":{},\"distinct\":{},\"duplicates\":{},\"out_of_order\":{},\"missing\":{missing},\"closed\":{},\"msgs_per_s\":{:.0},\"cpu_s\":{:.2},\"cpu_us_per_msg\":{cpu_us:.2},\"rss_before_mib\":{:.1},\"rss_mib\":{:.1},\"rss_peak_mib\":{:.1},\"ack_us\":{},\"e2e_us\":{}}}",
        a.cmd,
        a.clients,
        a.qos,
        a.payload,
        a.inflight,
        a.rate,
        t.sent,
        t.acked,
        t.received,
        t.audit.distinct,
        t.audit.dup,
        t.audit.late,
        t.closed,
        done as f64 / span,
        cpu1 - cpu0,
        rss_before as f64 / 1048576.0,
        rss as f64 / 1048576.0,
        rss_peak as f64 / 1048576.0,
        t.ack.json(),
        t.e2e.json()
    );
    Ok(missing == 0)
}

fn main() {
    let r = args().and_then(|a| match a.cmd.as_str() {
        "pub" | "fan" | "sub" | "idle" => run(&a),
        "sink" => sink(&a),
        c => Err(format!("unknown command {c}; see --help").into()),
    });
    match r {
        Ok(true) => {}
        Ok(false) => std::process::exit(1),
        Err(e) => {
            eprintln!("mqtt-load: {e}");
            std::process::exit(2);
        }
    }
}
