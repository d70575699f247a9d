#![no_main]

lucid_fuzz::door!(lucid_audit::fuzzing::events, 32 << 20);
