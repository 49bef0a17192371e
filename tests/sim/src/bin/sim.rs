//! `sim --seeds N --from S`: as many seeds as there is time for.

fn main() {}
