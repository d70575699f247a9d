//! PID 1 of the initramfs: verified root, data partition, hand-over to systemd
fn main() {}
