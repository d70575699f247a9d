#![no_main]

lucid_fuzz::door!(lucid_rdp::fuzzing::connection, 16 << 20);
