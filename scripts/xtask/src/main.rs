//! Sets up, builds, runs and tests Lucid on a developer's machine
fn main() {}
