#![no_main]

lucid_fuzz::door!(lucid_release_format::fuzzing::release_patch, 64 << 20);
