#![no_main]

lucid_fuzz::door!(lucid_replay::fuzzing::pieces, 32 << 20);
