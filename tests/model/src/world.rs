//! Random operations of all clients, and what they tell the model.

mod messages;

use crate::client::{Client, Kept, Said};
use crate::facts::{Check, ClientNo, Facts, Fate, WillFact};
use crate::mutant::Mutant;
use crate::peer::Peer;
use crate::rig::Rig;
use crate::violation;
use eventmesh_edge_conformance::wire::{DISCONNECT, disconnect_with, props, subscribe};
use eventmesh_edge_conformance::{Connect, Packet, Version, Will, property};
use eventmesh_edge_contract::Rng;
use std::time::Duration;

/// A persistent client that subscribes to all wills and does nothing else.
const WATCHER: ClientNo = 0;
/// Clients with a session that never ends, the watcher among them; then others, of every kind.
const DURABLE: usize = 4;
const CLIENTS: usize = 7;
/// Longest life of a session: 3.1.1 clients get it, too.
const FOR_EVER: Duration = Duration::from_secs(1 << 30);

const TOPICS: [&str; 5] = ["t/a/x", "t/a/y", "t/b/x", "t/é/y", "t"];
const FILTERS: [&str; 8] = ["t/a/x", "t/a/+", "t/+/x", "t/#", "+/b/#", "t/é/y", "#", "t/+/+"];

/// What happened, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Operations.
    pub operations: u64,
    /// Messages published.
    pub published: u64,
    /// Application messages received.
    pub received: u64,
    /// Power cuts.
    pub cuts: u64,
    /// Ordered restarts.
    pub restarts: u64,
    /// Wills that had to be published.
    pub wills: u64,
    /// Sessions that were there.
    pub resumed: u64,
}

impl std::ops::Add for Summary {
    type Output = Summary;

    fn add(self, other: Summary) -> Summary {
        Summary {
            operations: self.operations + other.operations,
            published: self.published + other.published,
            received: self.received + other.received,
            cuts: self.cuts + other.cuts,
            restarts: self.restarts + other.restarts,
            wills: self.wills + other.wills,
            resumed: self.resumed + other.resumed,
        }
    }
}

pub(crate) struct World {
    rng: Rng,
    rig: Rig,
    clients: Vec<Client>,
    /// Connections that their clients have left, and the node not yet.
    left: Vec<Peer>,
    facts: Facts,
    summary: Summary,
    trace: bool,
}

impl World {
    pub(crate) fn new(seed: u64, mutant: Option<Mutant>, trace: bool) -> World {
        let mut rng = Rng::new(seed);
        let rig = Rig::new(rng.next_u64(), mutant);
        let mut version = || if rng.chance(250) { Version::V311 } else { Version::V5 };
        let client = |no| {
            let version = if no == WATCHER { Version::V5 } else { version() };
            Client::new(no, version, no < DURABLE)
        };
        let clients: Vec<Client> = (0..CLIENTS).map(client).collect();
        let facts = Facts::new(clients.iter().map(|client| client.durable).collect());
        World { rng, rig, clients, left: Vec::new(), facts, summary: Summary::default(), trace }
    }

    pub(crate) fn run(mut self) -> Result<Summary, String> {
        self.connect(WATCHER);
        self.quiesce()?;
        self.subscribe_to(WATCHER, "w/#".to_owned());
        self.quiesce()?;
        for _ in 0..120 {
            self.operation()?;
            self.summary.operations += 1;
        }
        self.end()?;
        self.summary.received = self.facts.received();
        self.summary.wills =
            self.facts.wills.iter().filter(|will| will.fate == Fate::Due).count().try_into().unwrap_or(0);
        Ok(self.summary)
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>6} {:>8.1?} {}", self.facts.step, self.rig.now(), what());
        }
    }

    fn operation(&mut self) -> Check {
        let client = self.rng.index(CLIENTS);
        let waits = self.clients[client].peer.is_some() && !self.clients[client].accepted;
        match self.rng.below(100) {
            0..2 => self.connect(client),
            2..70 if waits => self.rig.disk(1),
            2..70 if !self.clients[client].is_open() => self.connect(client),
            2..40 => self.publish(client),
            40..50 => self.subscribe(client),
            50..53 => self.unsubscribe(client),
            53..56 => self.disconnect(client),
            56..60 => self.cut(client),
            60..70 => self.answer(client),
            70..76 => self.advance(4_000),
            76..77 => self.advance(40_000),
            77..79 => self.power_cut(),
            79..80 => self.restart(),
            80..82 => self.quiesce()?,
            _ => self.rig.disk(2),
        }
        self.turn()
    }

    /// Some of those who could go on do.
    fn turn(&mut self) -> Check {
        if self.rng.chance(300) {
            let n = self.rng.index(3);
            self.rig.disk(n);
        }
        for client in 0..CLIENTS {
            if self.rng.chance(600) {
                self.run_client(client)?;
            }
        }
        self.run_left();
        Ok(())
    }

    fn run_left(&mut self) {
        for peer in &mut self.left {
            drop(peer.run(&self.rig));
        }
        self.left.retain(|peer| !peer.closed);
        self.rig.run_hub();
    }

    fn run_client(&mut self, client: ClientNo) -> Check {
        for packet in self.clients[client].run(&self.rig) {
            self.packet(client, packet)?;
        }
        self.rig.run_hub();
        if let Some(peer) = self.clients[client].peer.as_ref().filter(|peer| peer.closed) {
            return violation(format!("client {client}: the node closed the connection: {}", peer.why));
        }
        if self.rng.chance(700) {
            self.answer(client);
        }
        Ok(())
    }

    fn packet(&mut self, client: ClientNo, packet: Packet) -> Check {
        self.say(|| format!("client {client} <- {packet:?}"));
        let now = self.rig.now();
        self.facts.now = now;
        match packet {
            Packet::ConnAck { present, code: 0, .. } => self.accepted(client, present),
            Packet::Publish(published) => self.clients[client].published(&published, &mut self.facts, now),
            Packet::Ack { first, pid, reason, .. } => {
                self.clients[client].acknowledged(first, pid, reason, &mut self.facts);
                Ok(())
            }
            Packet::SubAck { pid, .. } | Packet::UnsubAck { pid, .. } => {
                self.subscriptions_answered(client, pid);
                Ok(())
            }
            other => violation(format!("client {client} received {other:?}")),
        }
    }

    // --- connections ---

    fn connect(&mut self, client: ClientNo) {
        self.leave(client);
        let (durable, version) = (self.clients[client].durable, self.clients[client].version);
        let clean = !durable && self.rng.chance(400);
        let v5_expiry = if durable { FOR_EVER } else { Duration::from_secs([0, 5, 30][self.rng.index(3)]) };
        let expiry = match version {
            Version::V5 => v5_expiry,
            Version::V311 if clean => Duration::ZERO,
            Version::V311 => FOR_EVER,
        };
        let will = (client != WATCHER && self.rng.chance(600)).then(|| self.new_will(client, expiry));
        let mut connect = Connect::new(version, &format!("client-{client}")).clean(clean);
        if version.is_v5() {
            let secs = u32::try_from(expiry.as_secs()).unwrap_or(u32::MAX);
            connect = connect.with(props::four(property::SESSION_EXPIRY, secs));
        }
        if let Some((_, will)) = &will {
            connect = connect.will(will.clone());
        }
        self.facts.tick();
        self.say(|| format!("client {client} -> CONNECT clean {clean}, {expiry:?}, {:?}", will));
        let mut peer = Peer::open(&self.rig, version);
        peer.send(&connect.encode());
        let state = &mut self.clients[client];
        state.peer = Some(peer);
        let at = self.rig.now();
        state.said = Said { clean, expiry, at, will: will.map(|(index, _)| index) };
        match state.owed.map(|will| &mut self.facts.wills[will].fate) {
            // Its session ends when the node reads this.
            Some(Fate::Owed { min, .. }) if clean => *min = (*min).min(at),
            // The node may see this one before it reads the DISCONNECT on the other connection.
            Some(fate @ Fate::TakingBack) => *fate = Fate::Open,
            _ => {}
        }
    }

    fn new_will(&mut self, client: ClientNo, expiry: Duration) -> (usize, Will) {
        let no = self.message(client, format!("w/{client}"), 2, false, false, None);
        let v5 = self.clients[client].version.is_v5();
        let asked = if v5 && self.rng.chance(600) { self.rng.between(1, 20) } else { 0 };
        let delay = Duration::from_secs(asked).min(expiry);
        self.facts.wills.push(WillFact { msg: no, delay, fate: Fate::Armed { accepted: false } });
        let mut will = Will::new(&format!("w/{client}"), &format!("m{no}")).qos(2);
        if asked > 0 {
            will = will.with(props::four(property::WILL_DELAY, u32::try_from(asked).unwrap_or(0)));
        }
        (self.facts.wills.len() - 1, will)
    }

    fn accepted(&mut self, client: ClientNo, present: bool) -> Check {
        let (now, step) = (self.rig.now(), self.facts.tick());
        let state = &mut self.clients[client];
        let expected = match state.kept {
            _ if state.said.clean => Some(false),
            Kept::No => Some(false),
            Kept::Live => Some(true),
            Kept::Until { min, .. } if now < min => Some(true),
            Kept::Until { max, .. } if state.said.at >= max => Some(false),
            Kept::Until { .. } | Kept::Unknown => None,
        };
        if expected.is_some_and(|expected| expected != present) {
            return violation(format!("client {client}: Session Present {present}, was {:?}", state.kept));
        }
        self.summary.resumed += u64::from(present);
        state.accepted = true;
        state.kept = Kept::Live;
        if present {
            state.resume(&mut self.facts);
        } else {
            state.lose_session();
            for sub in self.facts.subs.iter_mut().filter(|sub| sub.client == client && sub.ended.is_none()) {
                sub.ending.get_or_insert(step);
                sub.ended = Some(step);
            }
        }
        if let Some(will) = self.clients[client].said.will {
            self.facts.wills[will].fate = Fate::Armed { accepted: true };
        }
        if let Some(owed) = self.clients[client].owed.take() {
            self.came_back(owed, self.clients[client].said.at, !present);
        }
        Ok(())
    }

    /// The client of this will has a connection again. Its CONNECT was read between `asked` and now.
    fn came_back(&mut self, will: usize, asked: Duration, session_ended: bool) {
        let now = self.rig.now();
        let will = &mut self.facts.wills[will];
        will.fate = match will.fate {
            Fate::Owed { .. } if session_ended => Fate::Due,
            Fate::Owed { min, .. } if now < min => Fate::Dead,
            Fate::Owed { max, .. } if asked >= max => Fate::Due,
            Fate::Owed { .. } => Fate::Open,
            fate => fate,
        };
    }

    /// The client turns to another connection; the node finds out when it reads what comes.
    fn leave(&mut self, client: ClientNo) {
        let Some(mut peer) = self.clients[client].peer.take() else { return };
        // What it sent is read before what the next connection sends: otherwise it would take that one over.
        drop(peer.run(&self.rig));
        self.left.push(peer);
        self.lost(client, None);
    }

    fn cut(&mut self, client: ClientNo) {
        let Some(mut peer) = self.clients[client].peer.take() else { return };
        self.say(|| format!("client {client} is cut"));
        peer.cut(&self.rig);
        self.rig.run_hub();
        self.left.push(peer);
        self.lost(client, None);
    }

    fn disconnect(&mut self, client: ClientNo) {
        if !self.clients[client].is_open() {
            return;
        }
        let with_will = self.clients[client].version.is_v5() && self.rng.chance(300);
        self.say(|| format!("client {client} -> DISCONNECT, with its will: {with_will}"));
        let bytes = if with_will { disconnect_with(4, &[]) } else { DISCONNECT.to_vec() };
        self.clients[client].send(&bytes);
        let Some(peer) = self.clients[client].peer.take() else { return };
        self.left.push(peer);
        self.lost(client, None);
        // What it sent may wait unread behind a commit.
        if let Some(will) = self.clients[client].owed.filter(|_| !with_will) {
            self.facts.wills[will].fate = Fate::TakingBack;
        }
    }

    /// A connection has ended, by a restart of the node if `restarted`, which says since when it runs again.
    fn lost(&mut self, client: ClientNo, restarted: Option<Duration>) {
        let step = self.facts.tick();
        let now = self.rig.now();
        let since = restarted.unwrap_or(now);
        let state = &mut self.clients[client];
        let accepted = state.accepted;
        state.lose_connection();
        let ends = |expiry: Duration| Kept::Until { min: since + expiry, max: since + expiry };
        let left_in_disorder = restarted.is_none() && !self.left.is_empty();
        state.kept = match state.kept {
            Kept::Live if state.durable => Kept::Live,
            _ if !accepted => Kept::Unknown,
            Kept::Live if state.said.expiry.is_zero() => Kept::No,
            Kept::Live if state.said.expiry == FOR_EVER => Kept::Live,
            // The node reads what came before, and may wait for the disk: it sees the end a little later.
            Kept::Live if left_in_disorder => {
                Kept::Until { min: since + state.said.expiry, max: Duration::MAX }
            }
            Kept::Live => ends(state.said.expiry),
            kept => kept,
        };
        if !state.durable {
            for sub in self.facts.subs.iter_mut().filter(|sub| sub.client == client) {
                sub.ending.get_or_insert(step);
            }
        }
        // One that is owed already is an earlier connection's, and this one was not accepted.
        if let Some(earlier) = state.owed.map(|will| &mut self.facts.wills[will])
            && let Fate::Owed { max, .. } = earlier.fate
        {
            earlier.fate = if state.said.at >= max { Fate::Due } else { Fate::Open };
        }
        let Some(will) = state.said.will.take() else { return };
        state.owed = Some(will);
        let will = &mut self.facts.wills[will];
        let max = if left_in_disorder { Duration::MAX } else { since + will.delay };
        will.fate = match will.fate {
            Fate::Armed { accepted: true } => Fate::Owed { min: now + will.delay, max },
            _ => Fate::Open,
        };
    }

    // --- time and the node ---

    fn advance(&mut self, max_ms: u64) {
        let ms = self.rng.below(max_ms);
        self.say(|| format!("{ms} ms pass"));
        self.rig.advance(Duration::from_millis(ms));
    }

    fn power_cut(&mut self) {
        self.summary.cuts += 1;
        let downtime = Duration::from_millis(self.rng.below(20_000));
        self.say(|| format!("the power goes, for {downtime:?}"));
        let before = self.rig.now();
        self.rig.power_cut(downtime);
        self.back(before, true);
    }

    fn restart(&mut self) {
        self.summary.restarts += 1;
        let downtime = Duration::from_millis(self.rng.below(20_000));
        self.say(|| format!("the node stops in order, for {downtime:?}"));
        let before = self.rig.now();
        let peers = self.clients.iter_mut().filter_map(|client| client.peer.as_mut()).chain(&mut self.left);
        for peer in peers {
            peer.stop(&self.rig);
        }
        self.rig.restart(downtime);
        self.back(before, false);
    }

    /// The node runs again: all connections are lost, and what was not answered may have happened or not.
    fn back(&mut self, before: Duration, by_power_cut: bool) {
        let now = self.rig.now();
        self.left.clear();
        for client in 0..CLIENTS {
            let state = &mut self.clients[client];
            if state.peer.take().is_some() {
                self.lost(client, Some(now));
                let state = &mut self.clients[client];
                if let Kept::Until { min, .. } = &mut state.kept
                    && !by_power_cut
                {
                    *min = min.saturating_sub(now - before);
                }
                if let Some(will) = state.owed.map(|will| &mut self.facts.wills[will])
                    && let Fate::Owed { min, .. } = &mut will.fate
                {
                    // In an ordered stop the connections were lost before.
                    *min = if by_power_cut { now + will.delay } else { before + will.delay };
                }
            } else {
                // That it left may not have been stored: then it is as if it had been lost now.
                if let Kept::Until { max, .. } = &mut state.kept {
                    *max = (*max).max(now + state.said.expiry);
                }
                if let Some(will) = state.owed {
                    let delay = self.facts.wills[will].delay;
                    match &mut self.facts.wills[will].fate {
                        Fate::Owed { max, .. } => *max = (*max).max(now + delay),
                        fate @ Fate::TakingBack => *fate = Fate::Open,
                        _ => {}
                    }
                }
            }
        }
    }

    /// Everything that is under way comes to its end.
    fn quiesce(&mut self) -> Check {
        self.say(|| "everything comes to rest".to_owned());
        for round in 0..200 {
            self.rig.disk(usize::MAX);
            for client in 0..CLIENTS {
                for packet in self.clients[client].run(&self.rig) {
                    self.packet(client, packet)?;
                }
                self.clients[client].answer(usize::MAX);
            }
            self.run_left();
            if round % 5 == 4 {
                self.rig.advance(Duration::from_millis(600));
            }
            if round >= 40 && self.rig.pending() == 0 && self.left.is_empty() {
                break;
            }
        }
        for client in &mut self.clients {
            client.settled();
            if let Some(will) = client.owed
                && self.facts.wills[will].fate == Fate::TakingBack
            {
                self.facts.wills[will].fate = Fate::Dead;
            }
        }
        Ok(())
    }

    /// All durable clients come back and take what there is for them; all delays pass.
    fn end(&mut self) -> Check {
        self.say(|| "the end".to_owned());
        for client in DURABLE..CLIENTS {
            self.cut(client);
        }
        for _ in 0..3 {
            for client in 0..DURABLE {
                if self.clients[client].peer.is_none() {
                    self.connect(client);
                }
            }
            self.quiesce()?;
        }
        self.rig.advance(Duration::from_secs(3_000));
        self.quiesce()?;
        for client in DURABLE..CLIENTS {
            if let Some(will) = self.clients[client].owed
                && let fate @ Fate::Owed { .. } = &mut self.facts.wills[will].fate
            {
                *fate = Fate::Due;
            }
        }
        self.clients.iter().take(DURABLE).try_for_each(|client| client.has_finished(&self.facts))?;
        self.look_at_retained()?;
        self.facts.everything_arrived(WATCHER)
    }

    /// Somebody who asks now is given the last retained messages.
    fn look_at_retained(&mut self) -> Check {
        let mut peer = Peer::open(&self.rig, Version::V5);
        peer.send(&Connect::new(Version::V5, "reader").encode());
        drop(peer.run(&self.rig));
        peer.send(&subscribe(Version::V5, 1, &[], &[("r/+", 0)]));
        let asked = self.facts.tick();
        let found = peer.run(&self.rig);
        for client in 0..CLIENTS {
            let topic = format!("r/{client}");
            let on_topic = found.iter().find_map(|packet| match packet {
                Packet::Publish(published) if published.topic == topic => Some(published),
                _ => None,
            });
            let no = on_topic.and_then(|published| published.payload.strip_prefix('m')?.parse().ok());
            self.facts.is_current(client, &topic, no, asked)?;
        }
        Ok(())
    }
}
