#![no_main]

lucid_fuzz::door!(lucid_rdp::fuzzing::credssp, 4 << 20);
