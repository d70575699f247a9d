#![no_main]

lucid_fuzz::door!(lucid_updated::fuzzing::journal, 32 << 20);
