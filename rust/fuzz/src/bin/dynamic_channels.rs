#![no_main]

lucid_fuzz::door!(lucid_rdp::fuzzing::dynamic_channels, 16 << 20);
