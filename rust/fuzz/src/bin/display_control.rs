#![no_main]

lucid_fuzz::door!(lucid_rdp::fuzzing::display_control, 16 << 20);
