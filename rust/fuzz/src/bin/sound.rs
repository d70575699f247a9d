#![no_main]

lucid_fuzz::door!(lucid_rdp::fuzzing::sound, 16 << 20);
