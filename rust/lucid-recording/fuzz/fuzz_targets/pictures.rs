#![no_main]

lucid_fuzz::door!(lucid_replay::fuzzing::records, 320 << 20);
