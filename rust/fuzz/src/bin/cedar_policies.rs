#![no_main]

lucid_fuzz::door!(lucid_policy::fuzzing::policies, 64 << 20);
