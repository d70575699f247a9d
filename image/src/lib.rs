//! Lays out Lucid's disk: partitions, verified root, boot files
