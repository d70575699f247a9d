#![no_main]

lucid_fuzz::door!(lucid_rdp::fuzzing::drive_answer, 16 << 20);
