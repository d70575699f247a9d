//! Access units of H.264 (ITU-T H.264, annex B) as devices hand them out: parameter sets may come in a buffer of their
//! own, or only once, while a client needs them with every key frame.

/// NAL unit types (table 7-1).
const IDR_SLICE: u8 = 5;
const SEQUENCE_PARAMETERS: u8 = 7;
const PICTURE_PARAMETERS: u8 = 8;

/// The most bytes of parameter sets; real ones have fewer than a hundred.
const MAX_PARAMETERS: usize = 4096;

/// NAL units with their start codes.
pub(crate) fn units(stream: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    // Where each start code begins, its leading zero byte included.
    let mut starts = Vec::new();
    let mut at = 0;
    while let Some(found) = stream.get(at..).and_then(|rest| rest.windows(3).position(|w| w == [0, 0, 1])) {
        let code = at + found;
        let long = code > at && stream.get(code - 1) == Some(&0);
        starts.push((code - usize::from(long), code + 3));
        at = code + 3;
    }
    let ends: Vec<usize> = starts.iter().skip(1).map(|(start, _)| *start).chain([stream.len()]).collect();
    starts.into_iter().zip(ends).filter_map(|((start, header), end)| {
        Some((*stream.get(header)? & 31, stream.get(start..end)?)).filter(|_| header < end)
    })
}

/// Whether a stream has any slice, and whether it has one of an IDR picture.
fn slices(stream: &[u8]) -> (bool, bool) {
    units(stream).fold((false, false), |(any, idr), (kind, _)| {
        (any || (1..=IDR_SLICE).contains(&kind), idr || kind == IDR_SLICE)
    })
}

/// A whole access unit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    pub(crate) bytes: Vec<u8>,
    pub(crate) key_frame: bool,
}

/// Puts access units together.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    /// What came and belongs to the next picture.
    begun: Vec<u8>,
    sequence: Vec<u8>,
    picture: Vec<u8>,
}

impl Assembly {
    /// Takes what a device wrote; gives the access unit once there is a picture in it.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Option<Unit>, &'static str> {
        let (any, idr) = slices(bytes);
        let [mut has_sequence, mut has_picture] = [false; 2];
        for (kind, unit) in units(bytes) {
            let (kept, seen) = match kind {
                SEQUENCE_PARAMETERS => (&mut self.sequence, &mut has_sequence),
                PICTURE_PARAMETERS => (&mut self.picture, &mut has_picture),
                _ => continue,
            };
            if unit.len() > MAX_PARAMETERS {
                return Err("its parameter sets are too long");
            }
            kept.clear();
            kept.extend_from_slice(unit);
            *seen = true;
        }
        if !any {
            if units(bytes).next().is_none() {
                return Err("it wrote something that is no Annex B stream");
            }
            if self.begun.len() + bytes.len() > MAX_PARAMETERS {
                return Err("it writes headers without end and no picture");
            }
            self.begun.extend_from_slice(bytes);
            return Ok(None);
        }
        let mut whole = std::mem::take(&mut self.begun);
        if idr {
            let before: Vec<u8> = units(&whole).map(|(kind, _)| kind).collect();
            has_sequence |= before.contains(&SEQUENCE_PARAMETERS);
            has_picture |= before.contains(&PICTURE_PARAMETERS);
            if !(has_sequence && has_picture) {
                if self.sequence.is_empty() || self.picture.is_empty() {
                    return Err("its key frame has no parameter sets");
                }
                whole = [&self.sequence[..], &self.picture[..]].concat();
            }
        }
        whole.extend_from_slice(bytes);
        Ok(Some(Unit { bytes: whole, key_frame: idr }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPS: [u8; 7] = [0, 0, 0, 1, 0x67, 1, 2];
    const PPS: [u8; 6] = [0, 0, 0, 1, 0x68, 3];
    const IDR: [u8; 6] = [0, 0, 1, 0x65, 9, 9];
    const SLICE: [u8; 5] = [0, 0, 1, 0x41, 7];

    #[test]
    fn a_key_frame_always_has_its_parameter_sets_once() {
        let whole = [&SPS[..], &PPS, &IDR].concat();
        let unit = Some(Unit { bytes: whole.clone(), key_frame: true });
        // Together, as a buffer of their own, each in one of its own, and only with the first.
        let mut assembly = Assembly::default();
        assert_eq!(assembly.push(&whole).unwrap(), unit);
        assert_eq!(assembly.push(&IDR).unwrap(), unit);
        assert_eq!(assembly.push(&[&SPS[..], &PPS].concat()).unwrap(), None);
        assert_eq!(assembly.push(&IDR).unwrap(), unit);
        assert_eq!(assembly.push(&SPS).unwrap(), None);
        assert_eq!(assembly.push(&PPS).unwrap(), None);
        assert_eq!(assembly.push(&IDR).unwrap(), unit);
        let unit = Some(Unit { bytes: SLICE.to_vec(), key_frame: false });
        assert_eq!(assembly.push(&SLICE).unwrap(), unit);
    }

    #[test]
    fn what_is_no_stream_or_never_becomes_a_picture_is_refused() {
        assert!(Assembly::default().push(&IDR).is_err());
        assert!(Assembly::default().push(b"").is_err());
        assert!(Assembly::default().push(b"\x9d\x01\x2a").is_err());
        let mut assembly = Assembly::default();
        let refused = (0..1000).find_map(|_| assembly.push(&SPS).err());
        assert!(refused.is_some());
        assert!(Assembly::default().push(&[&SPS[..], &[7; 5000], &PPS].concat()).is_err());
    }

    #[test]
    fn random_damage_never_makes_it_fail_otherwise_than_with_an_error_or_grow() {
        let good = [&SPS[..], &PPS, &IDR, &SLICE, &SPS, &PPS].concat();
        let mut seed = 7_u64;
        let mut random = move |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        let mut assembly = Assembly::default();
        let (mut taken, mut refused) = (0, 0);
        for _ in 0..50_000 {
            let mut bytes = good.clone();
            bytes.truncate(1 + random(good.len()));
            bytes.drain(..random(bytes.len()));
            for _ in 0..random(4) {
                let at = random(bytes.len());
                bytes[at] = [0, 1, 0x65, random(256) as u8][random(4)];
            }
            match assembly.push(&bytes) {
                Ok(Some(unit)) => {
                    taken += 1;
                    assert!(unit.bytes.len() <= 3 * MAX_PARAMETERS);
                    assert!(unit.bytes.ends_with(&bytes));
                }
                Ok(None) => {}
                Err(_) => {
                    refused += 1;
                    assembly = Assembly::default();
                }
            }
        }
        assert!(taken > 1000 && refused > 1000, "{taken} {refused}");
    }
}
