//! The books: what devices published, what was acknowledged to them, what arrived upstream.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// One message of a simulated device: its name and number.
pub(crate) type Message = (String, u64);

#[derive(Default)]
pub(crate) struct Balance {
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    published: u64,
    acknowledged: BTreeSet<Message>,
    arrived: BTreeSet<Message>,
    received: u64,
}

impl Balance {
    fn books<T>(&self, change: impl FnOnce(&mut Books) -> T) -> T {
        change(&mut self.books.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn published(&self) {
        self.books(|b| b.published += 1);
    }

    pub(crate) fn acknowledged(&self, message: Message) {
        self.books(|b| b.acknowledged.insert(message));
    }

    pub(crate) fn arrived(&self, message: Option<Message>) {
        self.books(|b| {
            b.received += 1;
            b.arrived.extend(message);
        });
    }

    fn missing(&self) -> usize {
        self.books(|b| b.acknowledged.difference(&b.arrived).count())
    }

    /// Waits until everything acknowledged has arrived, at most so long.
    pub(crate) async fn settle(&self, most: Duration) {
        let arrived = async {
            while self.missing() > 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        // Whether it did is read from the books afterwards.
        if tokio::time::timeout(most, arrived).await.is_err() {
            println!("-- not everything has arrived after {} s", most.as_secs());
        }
    }

    /// Prints the balance; true if nothing acknowledged is missing.
    pub(crate) fn print(&self) -> bool {
        let missing = self.missing();
        self.books(|b| {
            println!(
                "\n  published by the devices   {:>6}\n  acknowledged to them       {:>6}\n  of these arrived upstream  {:>6}\n  MISSING                    {missing:>6}",
                b.published,
                b.acknowledged.len(),
                b.acknowledged.intersection(&b.arrived).count(),
            );
        });
        missing == 0
    }
}
