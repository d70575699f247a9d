#![no_main]

lucid_fuzz::door!(lucid_rdp::fuzzing::drives, 16 << 20);
