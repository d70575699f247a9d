#![no_main]

lucid_fuzz::door!(lucid_rdp::fuzzing::input, 16 << 20);
