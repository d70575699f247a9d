//! Records of the pointer stream: one or more entries, one after the other.
//!
//! | bytes | |
//! | --- | --- |
//! | 1 | 0: it moved, 1: it has a shape, 2: it is not drawn |
//! | 2 | how many milliseconds before the record's time that was |
//! | **it moved** | |
//! | 2, 2 | where it is from the left and from the top, in pixels of the desktop, 0 to 8191 |
//! | **it has a shape** | |
//! | 2, 2 | width and height in pixels, 1 to 384 |
//! | 2, 2 | which of its pixels points, from the left and from the top; within the shape |
//! | 4 for each pixel | red, green, blue, alpha (not multiplied), rows from the top, without gaps |
//!
//! The client draws the pointer by itself, so it is not part of the video. After each key of the video stream the next
//! record begins with how the pointer is drawn and where it is, unless it was not seen yet.

use crate::{Error, MAX_EDGE};

const MOVED: u8 = 0;
const SHAPE: u8 = 1;
const HIDDEN: u8 = 2;
/// The most pixels of a shape's edge (MS-RDPBCGR 2.2.9.1.1.4.1: large pointers).
pub const MAX_SHAPE: u16 = 384;
/// The most bytes of a record: a large shape, and movements.
pub const MAX_RECORD: usize = 1 << 20;

/// A shape, whose pixels lie elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape<'a> {
    /// In pixels.
    pub width: u16,
    /// In pixels.
    pub height: u16,
    /// Which of its pixels points: from the left, from the top.
    pub hotspot: (u16, u16),
    /// Red, green, blue, alpha.
    pub rgba: &'a [u8],
}

/// What became of the pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// It is here now: from the left, from the top.
    Moved(u16, u16),
    /// It looks so, and is drawn.
    Shape(Shape<'a>),
    /// It is not drawn.
    Hidden,
}

/// One entry of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// How many milliseconds before the record's time.
    pub ms_before: u16,
    /// What became of the pointer.
    pub change: Change<'a>,
}

impl Entry<'_> {
    /// Appends it to a record.
    pub fn write(&self, into: &mut Vec<u8>) {
        let kind = match self.change {
            Change::Moved(..) => MOVED,
            Change::Shape(_) => SHAPE,
            Change::Hidden => HIDDEN,
        };
        into.push(kind);
        into.extend(self.ms_before.to_le_bytes());
        match self.change {
            Change::Moved(x, y) => [x, y].iter().for_each(|n| into.extend(n.to_le_bytes())),
            Change::Shape(Shape { width, height, hotspot: (x, y), rgba }) => {
                [width, height, x, y].iter().for_each(|n| into.extend(n.to_le_bytes()));
                into.extend_from_slice(rgba);
            }
            Change::Hidden => {}
        }
    }
}

/// The entries of a record, in their order. Ends after the first that is malformed.
pub fn entries(payload: &[u8]) -> impl Iterator<Item = Result<Entry<'_>, Error>> {
    let mut rest = payload;
    std::iter::from_fn(move || {
        let read = read(&mut rest).transpose()?;
        if read.is_err() {
            rest = &[];
        }
        Some(read)
    })
}

fn read<'a>(rest: &mut &'a [u8]) -> Result<Option<Entry<'a>>, Error> {
    let wrong = |why| Error { stream: "pointer", why };
    let short = || wrong("it ends within an entry");
    let Some((&kind, _)) = rest.split_first() else { return Ok(None) };
    *rest = &rest[1..];
    let mut number = || {
        let (bytes, after) = rest.split_first_chunk::<2>().ok_or_else(short)?;
        *rest = after;
        Ok(u16::from_le_bytes(*bytes))
    };
    let ms_before = number()?;
    let change = match kind {
        MOVED => {
            let (x, y) = (number()?, number()?);
            if x >= MAX_EDGE || y >= MAX_EDGE {
                return Err(wrong("the pointer is outside of any desktop"));
            }
            Change::Moved(x, y)
        }
        SHAPE => {
            let (width, height, hotspot) = (number()?, number()?, (number()?, number()?));
            if !(1..=MAX_SHAPE).contains(&width) || !(1..=MAX_SHAPE).contains(&height) {
                return Err(wrong("a shape's size is not within 1 and 384 pixels"));
            }
            if hotspot.0 >= width || hotspot.1 >= height {
                return Err(wrong("what points is outside of the shape"));
            }
            let (rgba, after) =
                rest.split_at_checked(usize::from(width) * usize::from(height) * 4).ok_or_else(short)?;
            *rest = after;
            Change::Shape(Shape { width, height, hotspot, rgba })
        }
        HIDDEN => Change::Hidden,
        _ => return Err(wrong("an entry is none of a movement, a shape, and its end")),
    };
    Ok(Some(Entry { ms_before, change }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_as_they_were_written_and_one_that_is_cut_off_is_named() {
        let rgba: Vec<u8> = (0..2 * 3 * 4).collect();
        let shape = Shape { width: 2, height: 3, hotspot: (1, 2), rgba: &rgba };
        let all = [Change::Moved(0, 8191), Change::Shape(shape), Change::Hidden, Change::Moved(640, 7)];
        let mut payload = Vec::new();
        let mut ends = Vec::new();
        for (ms_before, change) in [100, 65535, 1, 0].into_iter().zip(all) {
            Entry { ms_before, change }.write(&mut payload);
            ends.push(payload.len());
        }
        let read: Vec<_> = entries(&payload).map(|entry| entry.unwrap().change).collect();
        assert_eq!(read, all);
        for end in 0..payload.len() {
            let read: Vec<_> = entries(&payload[..end]).collect();
            let whole = ends.iter().filter(|at| **at <= end).count();
            assert_eq!(read.iter().filter(|entry| entry.is_ok()).count(), whole);
            let is_cut = end > 0 && !ends.contains(&end);
            assert_eq!(read.iter().any(Result::is_err), is_cut, "{end} bytes");
        }
    }

    #[test]
    fn what_is_no_entry_ends_a_record() {
        for wrong in [
            &[3, 0, 0][..],
            &[0, 0, 0, 0, 32, 0, 0],
            &[1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0],
            &[1, 0, 0, 129, 1, 1, 0, 0, 0, 0, 0],
            &[1, 0, 0, 1, 0, 1, 0, 1, 0, 0, 0, 9, 9, 9, 9],
        ] {
            let mut read = entries(wrong);
            assert!(read.next().is_some_and(|entry| entry.is_err()), "{wrong:?}");
            assert!(read.next().is_none());
        }
    }
}
