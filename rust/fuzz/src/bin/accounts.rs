#![no_main]

lucid_fuzz::door!(lucid_accounts::fuzzing::accounts, 32 << 20);
