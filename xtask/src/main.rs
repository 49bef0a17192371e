//! One name per chore: quickstart, test, sim, crash, bench, arm.
fn main() {}
