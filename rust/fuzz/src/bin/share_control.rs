#![no_main]

lucid_fuzz::door!(lucid_rdp::fuzzing::share_control, 16 << 20);
