#![no_main]

lucid_fuzz::door!(lucid_recording::fuzzing::statements, 32 << 20);
