//! Thousands of seeds: whatever happens to node, store and upstream, the promises hold.

use eventmesh_edge_sim::{run_seed, run_seeds, trace_seed};

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

#[test]
fn the_promises_hold_for_every_seed() {
    if let Some(seed) = number("SIM_SEED") {
        let traced = std::env::var_os("SIM_TRACE").is_some();
        match if traced { trace_seed(seed) } else { run_seed(seed) } {
            Ok(summary) => println!("seed {seed}: {summary:?}"),
            Err(failure) => panic!("{failure}"),
        }
        return;
    }
    let campaign = run_seeds(0..number("SIM_SEEDS").unwrap_or(2000), run_seed);
    for failure in &campaign.failures {
        println!("{failure}");
    }
    println!("{} seeds: {:?}", campaign.seeds, campaign.total);
    assert!(campaign.failures.is_empty(), "{}", campaign.failures[0]);
}

#[test]
fn a_seed_replays_to_the_same_run() {
    for seed in [3, 17, 100] {
        assert_eq!(run_seed(seed), run_seed(seed));
    }
}
