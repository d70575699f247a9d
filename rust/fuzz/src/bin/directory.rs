#![no_main]

lucid_fuzz::door!(lucid_recording::fuzzing::directory, 96 << 20);
