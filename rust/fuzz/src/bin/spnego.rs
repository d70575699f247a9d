#![no_main]

lucid_fuzz::door!(lucid_rdp::fuzzing::spnego, 16 << 20);
