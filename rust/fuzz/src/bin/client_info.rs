#![no_main]

lucid_fuzz::door!(lucid_rdp::fuzzing::client_info, 4 << 20);
