//! What several tests need: signed metadata, a source in memory, and a machine whose power can be cut at any write.

#![allow(dead_code, unreachable_pub, missing_docs)]

pub mod machine;
pub mod repository;
