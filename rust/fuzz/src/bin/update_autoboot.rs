#![no_main]

lucid_fuzz::door!(lucid_updated::fuzzing::text, 32 << 20);
