//! One data directory on two machines: what each gives out from then on never has the id of something of the other (P3).

use crate::support::{A, commit, event, fork, options, read_after, spec, to_stream};
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::store::Store;
use eventmesh_edge_store::disk::Disk;
use eventmesh_edge_store::{Machine, Opened, SimSite, SteppedStore, StoreOptions};
use std::collections::BTreeSet;

fn machine(serial: &str) -> Machine {
    Machine::of([Some(serial.to_owned()), None, None, Some("copied with the image".to_owned())])
}

fn start(site: &SimSite, machine: Machine) -> (SteppedStore, Opened) {
    // Everything stays in the journal, so that a copy without the views has it all.
    let kept = StoreOptions { seal_segments: 100, checkpoint_segments: 100, ..options() };
    let options = StoreOptions { machine: Some(machine), checkpoint_bytes: 1 << 20, ..kept };
    SteppedStore::open(site, spec(), &options, true).unwrap()
}

fn publish(store: &dyn Store, what: &str, n: u64) {
    for i in 0..n {
        commit(store, to_stream(0, [event(what, i, 50)])).unwrap();
    }
}

/// Ids of all that waits, in order.
fn ids(store: &dyn Store) -> Vec<String> {
    read_after(store, A, Position::ZERO).iter().map(|stored| stored.id().to_string()).collect()
}

/// A fleet is flashed with one image: every copy has what was stored, under its ids, and ids of its own from there on.
#[test]
fn copies_of_one_image_never_give_out_the_same_id() {
    let image = SimSite::new();
    let (store, opened) = start(&image, machine("workbench"));
    assert_eq!((opened.moved, opened.log.is_new), (None, true));
    publish(&store, "before", 20);
    let before = ids(&store);
    store.close();
    drop(store);
    let mut seen: BTreeSet<String> = before.iter().cloned().collect();
    for serial in ["workbench", "gateway-1", "gateway-2", "gateway-3"] {
        let site = fork(&image);
        for life in 0..3 {
            let (store, opened) = start(&site, machine(serial));
            let moved = serial != "workbench" && life == 0;
            assert_eq!(opened.moved, moved.then_some("board serial"), "{serial}, life {life}");
            assert_eq!(opened.epoch, life + 2);
            publish(&store, serial, 10);
            let all = ids(&store);
            assert_eq!(all[..20], before, "{serial}: what was stored keeps its ids");
            let mine = &all[20 + 10 * life as usize..];
            assert_eq!(mine.len(), 10);
            assert!(mine.iter().all(|id| seen.insert(id.clone())), "{serial} repeats an id: {mine:?}");
            assert_eq!(store.log_id().0, opened.log.id);
            assert!(mine[0].starts_with(&store.log_id().to_string()));
        }
    }
}

/// The disk goes from box to box, and back: one more id space each time, and every id stays what it was.
#[test]
fn ids_stay_through_moves_and_through_the_loss_of_meta_or_views() {
    let site = SimSite::new();
    for (round, serial) in ["a", "b", "b", "a", "c"].into_iter().enumerate() {
        let (store, opened) = start(&site, machine(serial));
        assert_eq!(opened.moved.is_some(), [false, true, false, true, true][round], "round {round}");
        publish(&store, serial, 5);
    }
    let expected = ids(&start(&site, machine("c")).0);
    assert_eq!(expected.len(), 25);
    let spaces: BTreeSet<&str> = expected.iter().filter_map(|id| id.split('.').next()).collect();
    assert_eq!(spaces.len(), 3, "this simulation has one log id per machine: {spaces:?}");
    let without_views = fork(&site);
    assert_eq!(ids(&start(&without_views, machine("c")).0), expected);
    for file in ["meta-a", "meta-b"] {
        site.disk.remove(file).unwrap();
        without_views.disk.remove(file).unwrap();
    }
    assert_eq!(ids(&start(&site, machine("c")).0), expected, "the views know");
    assert_eq!(ids(&start(&without_views, machine("c")).0), expected, "the journal knows");
}

/// Power goes right after the move was noticed, at each operation: the next start has not forgotten it.
#[test]
fn a_cut_during_the_first_start_elsewhere_gives_no_id_twice() {
    let image = SimSite::new();
    let (store, _) = start(&image, machine("workbench"));
    publish(&store, "before", 5);
    drop(store);
    let mut mine = BTreeSet::new();
    let (store, _) = start(&image, machine("workbench"));
    publish(&store, "original", 8);
    mine.extend(ids(&store)[5..].iter().cloned());
    drop(store);
    for cut in 0..40 {
        let copy = fork(&image);
        copy.disk.fail(
            eventmesh_edge_store::sim_disk::Kind::Any,
            cut,
            u64::MAX,
            eventmesh_edge_store::sim_disk::Fault::Io,
        );
        drop(start(&copy, machine("elsewhere")));
        copy.disk.heal();
        copy.power_cut(cut);
        let (store, _) = start(&copy, machine("elsewhere"));
        publish(&store, "copy", 8);
        let all = ids(&store);
        let fresh = &all[all.len() - 8..];
        assert!(fresh.iter().all(|id| !mine.contains(id)), "cut at {cut}: {fresh:?}");
    }
}
