//! The contract of the Store port, one function per guarantee. [`contract_tests!`](crate::contract_tests) makes each of
//! them a `#[test]` of the calling crate.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_errors_doc,
    reason = "these are tests that live in a library so that several crates can run them"
)]

mod budgets;
mod commits;
mod ledger;
mod mailboxes;
mod model;
mod reads;
mod reopening;
mod reshaping;
pub mod support;
mod tables;

pub use budgets::*;
pub use commits::*;
pub use ledger::*;
pub use mailboxes::*;
pub use model::*;
pub use reads::*;
pub use reopening::*;
pub use reshaping::*;
pub use tables::*;

use eventmesh_edge_core::ports::store::{Store, StoreSpec};
use std::sync::Arc;

/// Where stores come from: one backing (a directory, a memory disk), opened as often as a test wants.
pub trait Factory {
    /// Opens the backing. Called again only after `close` on the store before it, and after that handle was dropped.
    fn open(&self, spec: StoreSpec) -> Arc<dyn Store>;

    /// Cases of each random run: fewer where a commit costs a real fdatasync.
    fn cases(&self) -> u32 {
        48
    }
}

/// Turns the contract into `#[test]`s for the stores that `$factory` opens. See the crate's description.
#[macro_export]
macro_rules! contract_tests {
    ($factory:expr) => {
        $crate::contract_tests! { @ $factory;
            // commits
            positions_follow_the_order_of_the_commit
            completions_come_in_the_order_of_submission
            a_completed_commit_is_visible
            a_refused_commit_leaves_nothing_behind
            an_empty_commit_completes
            sequences_count_per_source_and_per_stream
            sequences_have_no_gap_after_a_refusal
            payloads_of_every_size_come_back
            every_field_of_an_event_comes_back
            losses_found_by_others_are_counted
            events_are_seen_without_holes_while_commits_are_under_way
            // reads
            a_read_stops_at_its_number_of_events
            a_read_stops_at_its_number_of_bytes
            pages_follow_each_other_without_gap_or_overlap
            the_end_moves_when_events_come
            streams_do_not_see_each_other
            consumers_have_cursors_of_their_own
            a_cursor_never_moves_back
            a_cursor_in_the_middle_leaves_the_rest
            backlog_tells_what_waits
            // budgets
            a_full_stream_refuses_and_says_why
            what_can_never_fit_is_too_large
            an_acknowledgement_makes_room_and_says_so
            the_slowest_consumer_fills_a_refusing_stream
            a_full_stream_leaves_the_others_alone
            a_full_stream_still_takes_state_and_cursors
            drop_oldest_keeps_the_newest_and_counts_the_rest
            drop_oldest_takes_from_the_dead_uplink_only
            the_budget_of_a_stream_without_uplink_holds
            what_is_too_old_expires
            expiry_makes_room
            a_clock_that_is_not_set_expires_nothing
            // ledger
            losses_become_entries_with_names_and_ranges
            an_entry_never_changes
            entries_are_forgotten_with_the_event_that_carries_them
            a_removed_stream_is_named_in_its_entry
            entries_that_nobody_takes_are_bounded
            without_an_uplink_an_entry_names_the_stream_alone
            // mailboxes
            a_mailbox_gives_its_events_in_order
            one_event_waits_for_many_sessions
            entries_are_removed
            a_cleared_mailbox_is_empty
            removals_of_entries_that_are_not_there_are_nothing
            a_mailbox_is_read_in_pages
            a_mailbox_keeps_to_its_number_of_events
            a_mailbox_keeps_to_its_bytes
            the_fullest_mailbox_gives_way_first
            stream_and_mailbox_hold_an_event_independently
            mailboxes_survive_a_restart
            // tables
            the_latest_put_wins
            changes_apply_in_their_order
            tables_do_not_see_each_other
            a_scan_goes_by_prefix_in_pages
            a_value_can_hold_a_position_of_the_same_commit
            a_value_can_hold_the_record_of_an_event
            long_keys_and_values_are_kept
            tables_survive_a_restart
            // reopening
            positions_grow_over_restarts
            sequences_go_on_over_restarts
            events_are_the_same_after_a_restart
            cursors_survive_a_restart
            the_ledger_survives_a_restart
            backlogs_are_exact_after_a_restart
            a_restart_after_everything_was_acknowledged_is_empty
            many_restarts_change_nothing
            names_decide_not_indices
            a_new_uplink_starts_at_the_oldest_retained
            the_first_uplink_takes_over_what_waited_for_none
            without_its_last_uplink_a_stream_waits_for_the_next
            a_removed_stream_is_counted_and_the_rest_goes_on
            close_finishes_what_was_submitted
            a_closed_store_takes_nothing
            // reshaping
            a_new_consumer_begins_at_the_end_where_others_read
            new_consumers_take_over_what_waited_for_none
            nobody_loses_what_waits_without_a_word
            a_dropped_consumer_is_counted_and_leaves_no_trace
            a_drained_consumer_gets_what_waits_and_nothing_later
            a_drained_consumer_fills_no_stream
            a_drained_consumer_can_stay_after_all
            without_a_reader_later_events_wait_for_the_next
            streams_come_behind_those_that_are_there
            a_budget_changes_in_between
            what_an_open_store_cannot_become_is_refused
            a_start_without_an_uplink_counts_what_waited_for_it
            a_start_with_another_uplink_counts_nothing
            who_takes_over_what_waited_for_none_leaves_nothing_to_count
            an_unfinished_drain_ends_with_a_restart
            random_changes_agree_with_the_memory_store
            // model
            random_operations_agree_with_the_model
        }
    };
    (@ $factory:expr; $($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                $crate::suite::$name(|| $factory);
            }
        )*
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_guarantee_is_in_the_macro() {
        let list = include_str!("mod.rs");
        let sources = [
            include_str!("budgets.rs"),
            include_str!("commits.rs"),
            include_str!("ledger.rs"),
            include_str!("mailboxes.rs"),
            include_str!("model.rs"),
            include_str!("reads.rs"),
            include_str!("reopening.rs"),
            include_str!("reshaping.rs"),
            include_str!("tables.rs"),
        ];
        for line in sources.iter().flat_map(|s| s.lines()) {
            let Some(rest) = line.strip_prefix("pub fn ") else { continue };
            let name = rest.split(['<', '(']).next().unwrap();
            assert!(list.lines().any(|l| l.trim() == name), "{name} is not in contract_tests!");
        }
    }
}
