#![no_main]

lucid_fuzz::door!(lucid_recording::fuzzing::chunk, 96 << 20);
