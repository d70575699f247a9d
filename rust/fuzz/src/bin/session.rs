#![no_main]

lucid_fuzz::door!(lucid_rdp::fuzzing::session, 16 << 20);
