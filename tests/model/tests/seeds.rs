//! Many seeds: whatever the clients do and whenever the power goes, the node is a broker.

use eventmesh_edge_model::{Summary, run_seed};

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

#[test]
fn the_node_agrees_with_the_model() {
    let seeds = match number("MODEL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MODEL_SEEDS").unwrap_or(300),
    };
    let mut total = Summary::default();
    let mut failures = Vec::new();
    for seed in seeds {
        match run_seed(seed, None) {
            Ok(summary) => total = total + summary,
            Err(failure) => failures.push(failure),
        }
        if failures.len() >= 10 {
            break;
        }
    }
    println!("{total:?}");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_seed_replays_to_the_same_run() {
    for seed in [3, 17, 100] {
        assert_eq!(run_seed(seed, None), run_seed(seed, None));
    }
}
