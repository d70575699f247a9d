//! RDP host: shows a session's desktop to a remote client and carries its input
fn main() {}
