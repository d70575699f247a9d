#![no_main]

lucid_fuzz::door!(lucid_updated::fuzzing::stick, 32 << 20);
