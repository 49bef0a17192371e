//! Hundreds of bad weeks: `edgeseq` and the ledger events account for every event at the receiver; and what happens to
//! the account when one cause is not counted.

use eventmesh_edge_core::ports::store::LossReason;
use eventmesh_edge_sim::week::{Tamper, run_tampered};
use eventmesh_edge_sim::{Failure, Summary, run_seeds, run_week, run_week_on_journal};

/// How many seeds a wrong part may survive.
const SEEDS: u64 = 20;

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// One seed if `SIM_SEED` says which, else as many as `SIM_SEEDS` says.
fn campaign(default: u64, run: fn(u64) -> Result<Summary, Failure>) {
    if let Some(seed) = number("SIM_SEED") {
        let outcome = run(seed);
        println!("seed {seed}: {outcome:?}");
        assert!(outcome.is_ok());
        return;
    }
    let campaign = run_seeds(0..number("SIM_SEEDS").unwrap_or(default), run);
    for failure in &campaign.failures {
        println!("{failure}");
    }
    println!("{} weeks: {:?}", campaign.seeds, campaign.total);
    assert!(campaign.failures.is_empty(), "{} weeks failed, see above", campaign.failures.len());
    // A week that meets nothing proves nothing.
    let total = campaign.total;
    assert!([total.lost, total.refused, total.cuts, total.duplicates].iter().all(|n| *n > campaign.seeds));
}

#[test]
fn week_memory_store_every_event_is_accounted_for() {
    campaign(200, run_week);
}

#[test]
fn week_on_journal_every_event_is_accounted_for() {
    campaign(40, run_week_on_journal);
}

#[test]
fn week_replays_to_the_same_run() {
    for seed in [1, 8] {
        assert_eq!(run_week(seed), run_week(seed));
        assert_eq!(run_week_on_journal(seed), run_week_on_journal(seed));
    }
}

/// At least one of the seeds must see it, in words that name the account.
fn assert_caught(what: &str, tamper: Tamper) {
    let lines: Vec<String> =
        (0..SEEDS).filter_map(|seed| run_tampered(seed, tamper).err()).map(|failure| failure.what).collect();
    let seen = lines.iter().filter(|line| line.starts_with("account")).count();
    assert!(seen > 0, "{what}: no seed saw it; {lines:?}");
    println!("{what}: {seen} of {SEEDS} seeds, for example {:?}", lines.first());
}

/// A store that does not count a cause, neither in its totals nor in its entries.
macro_rules! uncounted {
    ($test:ident, $reason:ident) => {
        #[test]
        fn $test() {
            let tamper = Tamper {
                entries: |entries| entries.retain(|entry| entry.reason != LossReason::$reason),
                lines: |lines| lines.retain(|line| line.reason != LossReason::$reason),
                ..Tamper::default()
            };
            assert_caught(stringify!($test), tamper);
        }
    };
}

uncounted!(a_store_that_does_not_count_what_it_evicts_is_seen, QueueFull);
uncounted!(a_store_that_does_not_count_what_expires_is_seen, Expired);
uncounted!(a_store_that_does_not_count_what_the_upstream_rejects_is_seen, Rejected);
uncounted!(a_store_that_does_not_count_dead_letters_is_seen, Parked);
uncounted!(a_store_that_does_not_count_what_it_refuses_is_seen, Refused);

#[test]
fn a_forwarder_that_does_not_count_rejections_is_seen() {
    let tamper = Tamper {
        commit: |commit| commit.losses.retain(|loss| loss.reason != LossReason::Rejected),
        ..Tamper::default()
    };
    assert_caught("rejections", tamper);
}

#[test]
fn entries_that_are_forgotten_untold_are_seen() {
    let tamper = Tamper {
        commit: |commit| {
            let is_ledger = |text: &str| text == "io.eventmesh.edge.node.ledger";
            commit.events.retain(|new| {
                let properties = new.event.properties.as_ref();
                !properties.is_some_and(|p| p.user.iter().any(|(_, value)| is_ledger(value)))
            });
        },
        ..Tamper::default()
    };
    assert_caught("forgotten untold", tamper);
}

#[test]
fn entries_that_are_never_forgotten_come_again_and_do_no_harm_but_others_under_the_same_number_do() {
    // Told again after each restart, under other event ids: the number tells.
    let again = Tamper { commit: |commit| commit.state.clear(), ..Tamper::default() };
    for seed in 0..SEEDS {
        assert_eq!(run_tampered(seed, again).map(|summary| summary.lost > 0).err(), None);
    }
    let renumbered = Tamper {
        entries: |entries| entries.iter_mut().for_each(|e| e.no = e.no % 3 + 1),
        ..Tamper::default()
    };
    assert_caught("numbers used twice", renumbered);
}

#[test]
fn a_receiver_that_misses_events_sees_it() {
    // Taken over by the upstream, then dropped by a bridge behind it.
    let tamper = Tamper {
        arrival: |event| !(event.edgeseq % 50 == 7 && event.source.starts_with("mqtt:")),
        ..Tamper::default()
    };
    assert_caught("a bridge that drops", tamper);
}
