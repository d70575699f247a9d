#![no_main]

lucid_fuzz::door!(lucid_updated::fuzzing::select, 32 << 20);
