//! Bytes of a file of ours that are read one after the other; what is too short is an error of that file.

use crate::error::{Error, Result};

/// Where one is in them.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Makes the error of this kind of file.
    error: fn(String) -> Error,
}

impl<'a> Cursor<'a> {
    /// At the first byte.
    pub(crate) fn new(bytes: &'a [u8], error: fn(String) -> Error) -> Self {
        Self { bytes, at: 0, error }
    }

    /// At the same place of other bytes of the same kind of file.
    pub(crate) fn within<'b>(&self, bytes: &'b [u8]) -> Cursor<'b> {
        Cursor { bytes, at: self.at, error: self.error }
    }

    /// The next bytes.
    pub(crate) fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let Some(bytes) = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk::<N>) else {
            return Err((self.error)(format!("it ends after byte {}, within something", self.bytes.len())));
        };
        self.at += N;
        Ok(*bytes)
    }

    /// The next number, of four bytes, little endian.
    pub(crate) fn number(&mut self) -> Result<usize> {
        Ok(u32::from_le_bytes(self.take()?) as usize)
    }

    /// How many are left.
    pub(crate) fn left(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }
}
