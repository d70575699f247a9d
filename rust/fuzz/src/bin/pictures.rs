#![no_main]

// What IronRDP's client composes and keeps may take 256 MiB: that is its own bound.
lucid_fuzz::door!(lucid_replay::fuzzing::records, 320 << 20);
