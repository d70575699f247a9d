#![no_main]

lucid_fuzz::door!(lucid_release_format::fuzzing::release, 32 << 20);
