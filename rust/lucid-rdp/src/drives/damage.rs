//! Random damage for the tests of what reads foreign bytes.

/// Numbers that look random, the same in every run.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new() -> Random {
        Random(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 as usize
    }

    /// Changes up to three bytes, and cuts off up to two.
    pub(super) fn damage(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..self.next() % 4 {
            if !bytes.is_empty() {
                let at = self.next() % bytes.len();
                bytes[at] = self.next() as u8;
            }
        }
        bytes.truncate(bytes.len().saturating_sub(self.next() % 3));
        bytes
    }
}
