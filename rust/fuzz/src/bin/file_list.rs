#![no_main]

lucid_fuzz::door!(lucid_rdp::fuzzing::file_list, 8 << 20);
