//! The doors through which bytes of others come in, for the fuzz targets and for tests that replay their corpus. Built with
//! the feature `fuzzing` and for tests alone.

#![allow(clippy::expect_used, reason = "what does not hold and has to ends the run")]

use lucid_statement::json::{self, Document};

use crate::{
    Policy,
    approval::{Decision, Request, apply},
    consent::Receipt,
    explain, from_cedar,
    snapshot::Snapshot,
};

/// A table as people write it. Panics when one that is read is not the same after it was written, as JSON or as Cedar
/// policies.
pub fn table(bytes: &[u8]) {
    let Ok(policy) = Policy::parse(bytes) else { return };
    let canonical = policy.to_bytes().expect("it was checked");
    assert_eq!(Policy::from_bytes(&canonical).expect("it was written"), policy);
    assert_eq!(from_cedar(&policy.to_cedar()).expect("a table compiles"), policy);
    assert!(!explain(&policy).is_empty());
}

/// What is signed about policies, whoever signed it. Panics when one that is read is not the same after it was written.
pub fn statements(bytes: &[u8]) {
    fn again<D: Document + PartialEq>(bytes: &[u8]) -> Option<D> {
        let statement = json::read_signed::<D>("statement", bytes, None).ok()?;
        assert_eq!(json::to_bytes("statement", &statement).expect("it was read"), bytes);
        Some(statement.body)
    }
    if let Some(snapshot) = again::<Snapshot>(bytes) {
        let _ = from_cedar(&snapshot.cedar);
    }
    if let Some(request) = again::<Request>(bytes) {
        let _ = apply(&Policy::standard(), &request.change);
    }
    again::<Receipt>(bytes);
    again::<Decision>(bytes);
    // And with their signatures.
    let _ = Receipt::read(bytes);
    let _ = Decision::read(bytes);
    let _ = Request::read(bytes);
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
        let doors = [
            ("policy_table", super::table as fn(&[u8])),
            ("cedar_policies", super::policies),
            ("policy_statements", super::statements),
        ];
        for (name, door) in doors {
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
