#![no_main]

lucid_fuzz::door!(lucid_rdp::fuzzing::graphics, 16 << 20);
