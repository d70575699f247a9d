//! Applies lucid.toml from the card and announces how to connect
fn main() {}
