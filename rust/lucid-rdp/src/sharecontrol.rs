//! Share control headers (MS-RDPBCGR 2.2.8.1.1.1.1) of clients that count wrong.
//!
//! aardwolf declares six bytes more than it sends in every data PDU: it counts the share control header twice.
//! Windows and FreeRDP go by what MCS has delivered; ironrdp-pdu wants the rest as padding.

use std::borrow::Cow;

/// The user data of an MCS Send Data Request on the I/O channel, with a `totalLength` (u16, little endian, in bytes,
/// header included) that is no longer than the data.
pub(crate) fn within(data: &[u8]) -> Cow<'_, [u8]> {
    let Some(declared) = data.first_chunk() else { return Cow::Borrowed(data) };
    match u16::try_from(data.len()) {
        Ok(real) if real < u16::from_le_bytes(*declared) => {
            let mut data = data.to_vec();
            data[..2].copy_from_slice(&real.to_le_bytes());
            Cow::Owned(data)
        }
        _ => Cow::Borrowed(data),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_length_beyond_the_data_is_put_right() {
        assert_eq!(within(&[9, 0, 7, 7, 7, 7]).as_ref(), [6, 0, 7, 7, 7, 7]);
        assert_eq!(within(&[0xff, 0xff]).as_ref(), [2, 0]);
        for right in [&[6, 0, 7, 7, 7, 7][..], &[2, 0, 7, 7], &[0, 0], &[9], &[]] {
            assert!(matches!(within(right), Cow::Borrowed(same) if same == right));
        }
        let long = vec![0xff; 70_000];
        assert!(matches!(within(&long), Cow::Borrowed(_)));
    }
}
