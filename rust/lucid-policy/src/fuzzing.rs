//! The doors through which bytes of others come in, for the fuzz targets and for tests that replay their corpus. Built with
//! the feature `fuzzing` and for tests alone.

#![allow(clippy::expect_used, reason = "what does not hold and has to ends the run")]

use crate::{Policy, explain, from_cedar};

/// A table as people write it. Panics when one that is read is not the same after it was written, as JSON or as Cedar
/// policies.
pub fn table(bytes: &[u8]) {
    let Ok(policy) = Policy::parse(bytes) else { return };
    let canonical = policy.to_bytes().expect("it was checked");
    assert_eq!(Policy::from_bytes(&canonical).expect("it was written"), policy);
    assert_eq!(from_cedar(&policy.to_cedar()).expect("a table compiles"), policy);
    assert!(!explain(&policy).is_empty());
}

/// Cedar policies. Panics when a table that is read from them is not theirs.
pub fn policies(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(policy) = from_cedar(text) else { return };
    assert_eq!(from_cedar(&policy.to_cedar()).expect("a table compiles"), policy);
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use crate::Policy;

    /// The golden tables, and the policies that they compile to.
    #[test]
    #[ignore = "writes into the source tree"]
    fn write_the_seeds() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for name in ["full", "standard", "strict"] {
            let table = fs::read(root.join(format!("testdata/v1/{name}.json"))).unwrap();
            let policies = Policy::from_bytes(&table).unwrap().to_cedar();
            let corpus = root.join("../fuzz/corpus");
            fs::create_dir_all(corpus.join("cedar_policies")).unwrap();
            fs::write(corpus.join(format!("policy_table/{name}.json")), table).unwrap();
            fs::write(corpus.join(format!("cedar_policies/{name}.cedar")), policies).unwrap();
        }
    }

    #[test]
    fn every_input_of_the_corpus_is_borne_and_damaged_ones_as_well() {
        for (name, door) in [("policy_table", super::table as fn(&[u8])), ("cedar_policies", super::policies)]
        {
            let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
            let mut inputs = 0;
            for file in fs::read_dir(corpus).unwrap() {
                let input = fs::read(file.unwrap().path()).unwrap();
                door(&input);
                for at in (0..input.len()).step_by(1 + input.len() / 50) {
                    door(&input[..at]);
                    let mut flipped = input.clone();
                    flipped[at] ^= 1;
                    door(&flipped);
                }
                inputs += 1;
            }
            assert!(inputs >= 3, "{name}");
        }
    }
}
