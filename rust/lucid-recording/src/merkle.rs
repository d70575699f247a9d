//! The tree over the chunks: RFC 6962, section 2.1 (RFC 9162 has the same), with BLAKE3 instead of SHA-256.
//!
//! The leaf of a chunk is `BLAKE3(0x00 ‖ file)`, a node `BLAKE3(0x01 ‖ left ‖ right)`, the empty tree `BLAKE3("")`.
//! A tree of n leaves has the largest power of two below n on its left side, so that the odd one is promoted.

use lucid_statement::Hash;

/// Begins the hash of a leaf (RFC 6962, section 2.1).
pub(crate) const LEAF: u8 = 0;
/// Begins the hash of a node.
const NODE: u8 = 1;

/// The leaf of a chunk whose bytes are at hand.
#[must_use]
pub fn leaf(chunk: &[u8]) -> Hash {
    leaf_hasher().update(chunk).finalize().into()
}

/// Takes the bytes of a chunk as they come.
pub(crate) fn leaf_hasher() -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[LEAF]);
    hasher
}

fn node(left: &Hash, right: &Hash) -> Hash {
    let mut bytes = [NODE; 65];
    bytes[1..33].copy_from_slice(&left.0);
    bytes[33..].copy_from_slice(&right.0);
    blake3::hash(&bytes).into()
}

/// The largest power of two below a number above 1.
fn split(count: usize) -> usize {
    1 << (count - 1).ilog2()
}

/// The root over some leaves.
#[must_use]
pub fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => blake3::hash(b"").into(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node(&root(left), &root(right))
        }
    }
}

/// A tree that grows: only the roots of its full subtrees are kept, from the largest on.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    full: Vec<Hash>,
    leaves: u64,
}

impl Tree {
    /// Adds a leaf at the end.
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        let mut below = self.leaves;
        while below & 1 == 1 {
            if let Some(left) = self.full.pop() {
                hash = node(&left, &hash);
            }
            below >>= 1;
        }
        self.full.push(hash);
        self.leaves += 1;
    }

    /// The root over all leaves so far.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut full = self.full.iter().rev();
        match full.next() {
            None => root(&[]),
            Some(smallest) => full.fold(*smallest, |right, left| node(left, &right)),
        }
    }
}

/// The nodes that, with the leaf at `index`, make the root: from the bottom up. None when there is no such leaf.
#[must_use]
pub fn inclusion(leaves: &[Hash], index: usize) -> Option<Vec<Hash>> {
    if index >= leaves.len() {
        return None;
    }
    let mut path = Vec::new();
    let (mut leaves, mut index) = (leaves, index);
    while leaves.len() > 1 {
        let (left, right) = leaves.split_at(split(leaves.len()));
        if index < left.len() {
            path.push(root(right));
            leaves = left;
        } else {
            path.push(root(left));
            index -= left.len();
            leaves = right;
        }
    }
    path.reverse();
    Some(path)
}

/// Whether the path leads from the leaf at `index` to the root of a tree of `size` (RFC 9162, section 2.1.3.2).
#[must_use]
pub fn includes(root: &Hash, size: u64, index: u64, leaf: &Hash, path: &[Hash]) -> bool {
    if index >= size {
        return false;
    }
    let (mut place, mut last, mut hash) = (index, size - 1, *leaf);
    for other in path {
        if last == 0 {
            return false;
        }
        if place & 1 == 1 || place == last {
            hash = node(other, &hash);
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            hash = node(&hash, other);
        }
        place >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// The nodes that show that the tree of the first `old` leaves has only grown (RFC 6962, section 2.1.2). None when it
/// has fewer leaves than that, or `old` is 0, of which there is nothing to show.
#[must_use]
pub fn consistency(leaves: &[Hash], old: usize) -> Option<Vec<Hash>> {
    if old == 0 || old > leaves.len() {
        return None;
    }
    let mut path = Vec::new();
    let (mut leaves, mut old, mut whole) = (leaves, old, true);
    while old < leaves.len() {
        let (left, right) = leaves.split_at(split(leaves.len()));
        if old <= left.len() {
            path.push(root(right));
            leaves = left;
        } else {
            path.push(root(left));
            leaves = right;
            old -= left.len();
            whole = false;
        }
    }
    if !whole {
        path.push(root(leaves));
    }
    path.reverse();
    Some(path)
}

/// Whether the tree of `new` leaves is the one of `old` leaves, grown (RFC 9162, section 2.1.4.2).
#[must_use]
pub fn consistent(old: u64, old_root: &Hash, new: u64, new_root: &Hash, path: &[Hash]) -> bool {
    if old == 0 || old > new {
        return false;
    }
    if old == new {
        return path.is_empty() && old_root == new_root;
    }
    let (mut place, mut last) = (old - 1, new - 1);
    while place & 1 == 1 {
        place >>= 1;
        last >>= 1;
    }
    let mut path = path.iter();
    // A full tree is its own first node.
    let first = if old.is_power_of_two() { Some(old_root) } else { path.next() };
    let Some(first) = first else { return false };
    let (mut of_old, mut of_new) = (*first, *first);
    for other in path {
        if last == 0 {
            return false;
        }
        if place & 1 == 1 || place == last {
            of_old = node(other, &of_old);
            of_new = node(other, &of_new);
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            of_new = node(&of_new, other);
        }
        place >>= 1;
        last >>= 1;
    }
    last == 0 && of_old == *old_root && of_new == *new_root
}

#[cfg(test)]
mod tests {
    use super::*;
    use lucid_statement::Hex;

    fn leaves(count: usize) -> Vec<Hash> {
        (0..count).map(|index| leaf(&index.to_le_bytes())).collect()
    }

    /// The tree level by level, from the bottom: pairs are joined, an odd one is carried up. Another way than the
    /// definition's, with the same outcome.
    fn by_levels(leaves: &[Hash]) -> Hash {
        let mut level = leaves.to_vec();
        if level.is_empty() {
            return blake3::hash(b"").into();
        }
        while level.len() > 1 {
            level = level
                .chunks(2)
                .map(|pair| match pair {
                    [left, right] => {
                        Hex(*blake3::hash(&[&[1], left.0.as_slice(), &right.0].concat()).as_bytes())
                    }
                    _ => pair[0],
                })
                .collect();
        }
        level[0]
    }

    #[test]
    fn a_root_is_the_same_grown_defined_and_built_by_levels() {
        let leaves = leaves(130);
        let mut tree = Tree::default();
        for count in 0..=leaves.len() {
            assert_eq!(root(&leaves[..count]), by_levels(&leaves[..count]), "{count}");
            assert_eq!(tree.root(), root(&leaves[..count]), "{count}");
            if let Some(next) = leaves.get(count) {
                tree.push(*next);
            }
        }
    }

    /// RFC 6962, section 2.1.3, has this tree of seven leaves and says which nodes each proof holds.
    #[test]
    fn the_proofs_of_the_rfc_s_example_have_its_nodes() {
        let d = leaves(7);
        let [a, b, c, d_, e, f, j] = [d[0], d[1], d[2], d[3], d[4], d[5], d[6]];
        let (g, h, i) = (node(&a, &b), node(&c, &d_), node(&e, &f));
        let (k, l) = (node(&g, &h), node(&i, &j));
        assert_eq!(inclusion(&d, 0), Some(vec![b, h, l]));
        assert_eq!(inclusion(&d, 3), Some(vec![c, g, l]));
        assert_eq!(inclusion(&d, 4), Some(vec![f, j, k]));
        assert_eq!(inclusion(&d, 6), Some(vec![i, k]));
        assert_eq!(consistency(&d, 3), Some(vec![c, d_, g, l]));
        assert_eq!(consistency(&d, 4), Some(vec![l]));
        assert_eq!(consistency(&d, 6), Some(vec![i, j, k]));
    }

    #[test]
    fn every_proof_of_inclusion_holds_and_no_other_one_does() {
        for size in 1..=33 {
            let leaves = leaves(size);
            let root = root(&leaves);
            for index in 0..size {
                let path = inclusion(&leaves, index).unwrap();
                let holds = |index: usize, size: usize, path: &[Hash]| {
                    includes(&root, size as u64, index as u64, &leaves[index.min(leaves.len() - 1)], path)
                };
                assert!(holds(index, size, &path));
                for other in (0..size + 2).filter(|other| *other != index) {
                    assert!(!holds(other, size, &path), "{index} as {other} of {size}");
                    assert!(!includes(&root, size as u64, other as u64, &leaves[index], &path));
                }
                if let Some((_, shorter)) = path.split_last() {
                    assert!(!holds(index, size, shorter));
                }
                assert!(!holds(index, size, &[path.as_slice(), &[root]].concat()));
                for place in 0..path.len() {
                    let mut changed = path.clone();
                    changed[place].0[7] ^= 1;
                    assert!(!holds(index, size, &changed));
                }
            }
            assert_eq!(inclusion(&leaves, size), None);
        }
    }

    #[test]
    fn every_proof_of_growth_holds_and_none_of_another_past_does() {
        for size in 1..=33 {
            let leaves = leaves(size);
            let new = root(&leaves);
            for old in 1..=size {
                let path = consistency(&leaves, old).unwrap();
                let past = root(&leaves[..old]);
                assert!(consistent(old as u64, &past, size as u64, &new, &path), "{old} of {size}");
                let mut other = leaves.clone();
                other[old - 1].0[0] ^= 1;
                assert!(!consistent(old as u64, &root(&other[..old]), size as u64, &new, &path));
                assert!(!consistent(old as u64, &past, size as u64, &root(&other), &path));
                if let Some((_, shorter)) = path.split_last() {
                    assert!(!consistent(old as u64, &past, size as u64, &new, shorter));
                }
            }
            assert_eq!(consistency(&leaves, 0), None);
            assert_eq!(consistency(&leaves, size + 1), None);
        }
    }
}
