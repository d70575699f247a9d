//! Power button: asks the service manager for a clean power-off
fn main() {}
