//! The door through which bytes of others come in, for the fuzz target and for a test that replays its corpus. Built with
//! the feature `fuzzing` and for tests alone.

#![allow(clippy::expect_used, reason = "what does not hold and has to ends the run")]

use crate::Accounts;

/// The file of accounts, whoever wrote it. Panics when one that is read is not the same after it was written.
pub fn accounts(bytes: &[u8]) {
    let Ok(accounts) = Accounts::read(bytes) else { return };
    assert_eq!(accounts.to_bytes().expect("it was read"), bytes);
    for account in accounts.all() {
        let _ = (account.nt_hash(0), account.waits(0), account.links(0));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use std::{fs, path::Path};

    #[test]
    fn every_input_of_the_corpus_is_borne_and_damaged_ones_as_well() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/accounts");
        let mut inputs = 0;
        for file in fs::read_dir(corpus).unwrap() {
            let input = fs::read(file.unwrap().path()).unwrap();
            super::accounts(&input);
            for at in (0..input.len()).step_by(1 + input.len() / 200) {
                super::accounts(&input[..at]);
                let mut flipped = input.clone();
                flipped[at] ^= 1;
                super::accounts(&flipped);
            }
            inputs += 1;
        }
        assert!(inputs >= 2);
    }
}
