#![no_main]

lucid_fuzz::door!(lucid_updated::fuzzing::kept, 32 << 20);
