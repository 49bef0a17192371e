//! The scene of the quickstart
fn main() {}
