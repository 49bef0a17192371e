//! Which topic it is that makes the server close the connection.
//!
//! MQTT lets a server close instead of refusing one event with its PUBACK, and some refuse and close (mosquitto with
//! `max_queued_messages 0`, hosted brokers with a policy per topic). Everything that is under way is unanswered then, and sent
//! again behind the same event: without a memory of it nothing would pass any more, on no topic.
//!
//! - A refusal that is the last answer before the close names the topic.
//! - Two closes in a row without an acknowledgement, and it is *narrow*: one event at a time, so that the next close names it.
//!   With every acknowledgement one more may be under way, up to the whole window.
//! - A topic that was named is held: its events are answered here, with the server's words, and the others go on. After a second, then
//!   two, up to [`HOLD_MAX`], one event of it goes out on trial; one that is acknowledged clears the topic.
//!
//! Nothing is given up here: an event answered for its topic is one refused for the moment, and what becomes of it is the forwarder's
//! to say.

use eventmesh_edge_core::Text;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::time::Duration;
use tokio::time::Instant;

/// Topics remembered (P5). Of more than these the one held for the shortest time is forgotten.
const TOPICS_MAX: usize = 1_024;
const HOLD_MIN: Duration = Duration::from_secs(1);
const HOLD_MAX: Duration = Duration::from_secs(32);
/// Closes in a row without an acknowledgement before one event at a time is sent.
const BARREN_MAX: u32 = 2;

/// A topic as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TopicKey(u64);

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The server closed it.
    Closed,
    /// It was lost, or given up here: nothing is known of any event.
    Lost,
}

#[derive(Debug)]
struct Topic {
    closes: u32,
    until: Instant,
    on_trial: bool,
    words: Text,
}

/// Outlives connections.
#[derive(Debug, Default)]
pub(crate) struct Suspicion {
    hasher: RandomState,
    topics: HashMap<TopicKey, Topic>,
    /// Refused by the newest answer.
    refused: Option<(TopicKey, Text)>,
    /// Something was acknowledged on this connection.
    fruitful: bool,
    barren: u32,
    /// While narrow, how many may be under way.
    width: Option<usize>,
}

impl Suspicion {
    pub(crate) fn key(&self, topic: &str) -> TopicKey {
        TopicKey(self.hasher.hash_one(topic))
    }

    /// How many may be under way, of the server's own `window`.
    pub(crate) fn width(&self, window: usize) -> usize {
        self.width.map_or(window, |width| width.min(window))
    }

    /// Whether an event of this topic may go out; if not, why.
    pub(crate) fn admit(&mut self, key: TopicKey) -> Result<(), Text> {
        let Some(topic) = self.topics.get_mut(&key) else { return Ok(()) };
        if topic.on_trial || Instant::now() < topic.until {
            let words = format!("{}; not sent, the server closes the connection for this topic", topic.words);
            return Err(Text::from(words));
        }
        topic.on_trial = true;
        Ok(())
    }

    pub(crate) fn acked(&mut self, key: TopicKey, window: usize) {
        self.fruitful = true;
        self.refused = None;
        if !self.topics.is_empty() {
            self.topics.remove(&key);
        }
        self.width = self.width.map(|width| width + 1).filter(|width| *width < window);
    }

    pub(crate) fn refused(&mut self, key: TopicKey, words: &Text) {
        self.refused = Some((key, words.clone()));
        if let Some(topic) = self.topics.get_mut(&key) {
            topic.on_trial = false;
        }
    }

    /// A connection ended; `unanswered`: how many events, and the topic of the first.
    pub(crate) fn ended(&mut self, end: End, unanswered: Option<(usize, TopicKey)>) {
        let fruitful = std::mem::take(&mut self.fruitful);
        let refused = self.refused.take();
        self.topics.values_mut().for_each(|topic| topic.on_trial = false);
        self.barren = match (end, unanswered) {
            (End::Closed, Some(_)) if !fruitful => self.barren + 1,
            _ => 0,
        };
        match (end, refused, unanswered) {
            (End::Closed, Some((key, words)), _) => self.blame(key, words),
            (End::Closed, None, Some((1, key))) if self.width == Some(1) => {
                self.blame(key, Text::from_static("no answer"));
            }
            (End::Closed, None, Some(_)) if self.width.is_some() || self.barren >= BARREN_MAX => {
                self.width = Some(1);
            }
            _ => {}
        }
    }

    fn blame(&mut self, key: TopicKey, words: Text) {
        self.barren = 0;
        let closes = self.topics.get(&key).map_or(0, |topic| topic.closes).saturating_add(1);
        let hold = HOLD_MIN.saturating_mul(1 << (closes - 1).min(16)).min(HOLD_MAX);
        if self.topics.len() >= TOPICS_MAX
            && let Some(mildest) =
                self.topics.iter().min_by_key(|(_, topic)| topic.closes).map(|(key, _)| *key)
        {
            self.topics.remove(&mildest);
        }
        self.topics.insert(key, Topic { closes, until: Instant::now() + hold, on_trial: false, words });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const WINDOW: usize = 64;

    fn closed(suspicion: &mut Suspicion, unanswered: usize, first: &str) {
        let key = suspicion.key(first);
        suspicion.ended(End::Closed, Some((unanswered, key)));
    }

    fn admits(suspicion: &mut Suspicion, topic: &str) -> bool {
        let key = suspicion.key(topic);
        suspicion.admit(key).is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_before_the_close_names_the_topic_and_trials_grow_rarer() {
        let mut suspicion = Suspicion::default();
        let bad = suspicion.key("bad");
        for hold in [1, 2, 4, 8, 16, 32, 32] {
            suspicion.refused(bad, &Text::from_static("0x87"));
            closed(&mut suspicion, 5, "good");
            assert!(admits(&mut suspicion, "good"));
            assert!(suspicion.admit(bad).unwrap_err().contains("0x87"));
            advance(Duration::from_secs(hold)).await;
            assert!(admits(&mut suspicion, "bad"), "on trial");
            assert!(!admits(&mut suspicion, "bad"), "one is enough");
        }
        suspicion.acked(bad, WINDOW);
        assert!(admits(&mut suspicion, "bad") && admits(&mut suspicion, "bad"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_that_others_follow_is_not_why_it_closed() {
        let mut suspicion = Suspicion::default();
        let (bad, good) = (suspicion.key("bad"), suspicion.key("good"));
        suspicion.refused(bad, &Text::from_static("0x87"));
        suspicion.acked(good, WINDOW);
        closed(&mut suspicion, 5, "good");
        assert!(admits(&mut suspicion, "bad"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_only_closes_is_sent_one_at_a_time_until_the_event_is_found() {
        let mut suspicion = Suspicion::default();
        closed(&mut suspicion, 9, "good");
        assert_eq!(suspicion.width(WINDOW), WINDOW, "once is nothing");
        closed(&mut suspicion, 9, "good");
        assert_eq!(suspicion.width(WINDOW), 1);
        let good = suspicion.key("good");
        suspicion.acked(good, WINDOW);
        assert_eq!(suspicion.width(WINDOW), 2);
        closed(&mut suspicion, 2, "bad");
        assert_eq!(suspicion.width(WINDOW), 1);
        assert!(admits(&mut suspicion, "bad"), "it may have been the other one");
        closed(&mut suspicion, 1, "bad");
        assert!(!admits(&mut suspicion, "bad") && admits(&mut suspicion, "good"));
        for _ in 0..WINDOW {
            suspicion.acked(good, WINDOW);
        }
        assert_eq!(suspicion.width, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_connection_accuses_nobody() {
        let mut suspicion = Suspicion::default();
        let good = suspicion.key("good");
        for _ in 0..10 {
            suspicion.ended(End::Lost, Some((1, good)));
            suspicion.ended(End::Closed, None);
        }
        assert_eq!(suspicion.width(WINDOW), WINDOW);
        assert!(suspicion.topics.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_is_bounded() {
        let mut suspicion = Suspicion::default();
        for n in 0..TOPICS_MAX + 50 {
            let key = suspicion.key(&n.to_string());
            suspicion.refused(key, &Text::from_static("0x87"));
            closed(&mut suspicion, 1, "other");
        }
        assert_eq!(suspicion.topics.len(), TOPICS_MAX);
    }
}
