#![no_main]

lucid_fuzz::door!(lucid_policy::fuzzing::statements, 64 << 20);
