#![no_main]

lucid_fuzz::door!(lucid_rdp::fuzzing::touch, 16 << 20);
