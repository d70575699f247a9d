#![no_main]

use lucid_provision::config::Config;

/// `lucid.toml`, which any computer can write onto the card.
fn enter(bytes: &[u8]) {
    match Config::parse(bytes) {
        Ok(_) => {}
        // It is shown on the console and written beside the file.
        Err(problem) => assert!(problem.to_string().len() < 4096, "a message without end"),
    }
}

lucid_fuzz::door!(enter, 32 << 20);
