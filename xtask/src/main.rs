//! Developer front door.
fn main() {}
