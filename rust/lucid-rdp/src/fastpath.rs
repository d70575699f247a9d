//! Cuts an update into fast-path PDUs (MS-RDPBCGR 2.2.9.1.2).

use ironrdp_core::{Encode as _, WriteCursor};
use ironrdp_pdu::fast_path::{EncryptionFlags, FastPathHeader, FastPathUpdatePdu, Fragmentation, UpdateCode};

use crate::Error;

/// An update: its kind and its payload.
pub(crate) type Update = (UpdateCode, Vec<u8>);

/// What one PDU carries at most: its length has 15 bits, and clients expect no more than 16 KiB.
const MAX_PART: usize = 16_374;

/// Appends the update's PDUs to `out`.
pub(crate) fn append(code: UpdateCode, data: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let parts = data.len().div_ceil(MAX_PART).max(1);
    for (index, part) in (0..parts).map(|i| (i, &data[i * MAX_PART..data.len().min((i + 1) * MAX_PART)])) {
        let fragmentation = match (index == 0, index + 1 == parts) {
            (true, true) => Fragmentation::Single,
            (true, false) => Fragmentation::First,
            (false, false) => Fragmentation::Next,
            (false, true) => Fragmentation::Last,
        };
        let update = FastPathUpdatePdu {
            fragmentation,
            update_code: code,
            compression_flags: None,
            compression_type: None,
            data: part,
        };
        let header = FastPathHeader::new(EncryptionFlags::empty(), update.size());
        let start = out.len();
        out.resize(start + header.size() + update.size(), 0);
        let mut cursor = WriteCursor::new(&mut out[start..]);
        header
            .encode(&mut cursor)
            .and_then(|()| update.encode(&mut cursor))
            .map_err(|_| Error::Encode("a fast-path update"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ironrdp_core::{ReadCursor, decode_cursor};

    #[test]
    fn an_update_of_any_size_comes_back_whole() {
        for len in [0, 1, MAX_PART - 1, MAX_PART, MAX_PART + 1, 3 * MAX_PART, 5 * MAX_PART + 7] {
            let data: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let mut out = Vec::new();
            append(UpdateCode::SurfaceCommands, &data, &mut out).unwrap();
            let mut cursor = ReadCursor::new(&out);
            let mut whole = Vec::new();
            let mut parts = Vec::new();
            while !cursor.is_empty() {
                let _: FastPathHeader = decode_cursor(&mut cursor).unwrap();
                let update: FastPathUpdatePdu<'_> = decode_cursor(&mut cursor).unwrap();
                whole.extend_from_slice(update.data);
                parts.push(update.fragmentation);
            }
            assert_eq!(whole, data);
            if parts.len() == 1 {
                assert_eq!(parts, [Fragmentation::Single]);
            } else {
                assert_eq!(parts.first(), Some(&Fragmentation::First));
                assert_eq!(parts.last(), Some(&Fragmentation::Last));
                assert!(parts[1..parts.len() - 1].iter().all(|f| *f == Fragmentation::Next));
            }
        }
    }
}
