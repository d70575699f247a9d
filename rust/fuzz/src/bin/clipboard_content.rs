#![no_main]

lucid_fuzz::door!(lucid_rdp::fuzzing::clipboard_content, 256 << 20);
