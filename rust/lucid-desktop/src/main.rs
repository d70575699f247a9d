//! A session's desktop: starts the compositor, captures damage, injects input
fn main() {}
