#![no_main]

lucid_fuzz::door!(lucid_rdp::fuzzing::negotiation, 4 << 20);
