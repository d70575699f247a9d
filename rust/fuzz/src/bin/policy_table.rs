#![no_main]

lucid_fuzz::door!(lucid_policy::fuzzing::table, 32 << 20);
