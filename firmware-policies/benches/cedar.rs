//! How long one Cedar decision takes; its budget is 100 µs.

fn main() {}
