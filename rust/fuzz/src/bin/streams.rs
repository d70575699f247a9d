#![no_main]

lucid_fuzz::door!(lucid_session::fuzzing::record, 32 << 20);
