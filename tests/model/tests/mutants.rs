//! Nodes that are wrong are found out.

use eventmesh_edge_model::{Mutant, run_seed};

/// So many seeds find each of them.
const SEEDS: u64 = 200;

#[test]
fn every_mutant_is_noticed() {
    let noticed = |mutant| (0..SEEDS).find_map(|seed| run_seed(seed, Some(mutant)).err());
    let mut unnoticed = Vec::new();
    for mutant in Mutant::ALL {
        match noticed(mutant) {
            Some(failure) => println!("{mutant:?}: {failure}"),
            None => unnoticed.push(mutant),
        }
    }
    assert!(unnoticed.is_empty(), "nobody notices {unnoticed:?}");
}
