//! The door through which bytes of others come in, for the fuzz target and for the test that replays its corpus. Built with
//! the feature `fuzzing` and for tests alone.

#![allow(clippy::expect_used, reason = "what does not hold and has to ends the run")]

use crate::{Event, verify};

/// The lines of an audit stream, each with its line feed. Panics when one of a chain that holds has two spellings, or when
/// the chain holds without its first line.
pub fn events(bytes: &[u8]) {
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    let Ok(summary) = verify(lines.iter().copied(), None) else { return };
    assert_eq!(summary.events, lines.len() as u64);
    for line in &lines {
        let event = Event::from_line(line).expect("the chain holds");
        assert_eq!(event.to_line().expect("it was read"), *line, "a line has two spellings");
    }
    if lines.len() > 1 {
        assert!(verify(lines[1..].iter().copied(), None).is_err(), "the first line may be missing");
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    #[test]
    fn every_input_of_the_corpus_is_borne_and_damaged_ones_as_well() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/events");
        let mut inputs = 0;
        for file in fs::read_dir(corpus).unwrap() {
            let bytes = fs::read(file.unwrap().path()).unwrap();
            super::events(&bytes);
            for at in (0..bytes.len()).step_by(7) {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << (at % 8);
                super::events(&damaged);
                super::events(&bytes[..at]);
            }
            inputs += 1;
        }
        assert!(inputs > 0);
    }
}
