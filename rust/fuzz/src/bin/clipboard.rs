#![no_main]

lucid_fuzz::door!(lucid_rdp::fuzzing::clipboard, 16 << 20);
