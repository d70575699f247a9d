//! The pointer as the client draws it: MS-RDPBCGR 2.2.9.1.1.4 (the updates), 2.2.9.1.2.1.7 to 2.2.9.1.2.1.10 (in fast
//! path).
//!
//! The desktop tells the shape by its name; a shape that a client has seen is named by its place in the client's
//! cache. Every client takes at least Color Pointer Updates (2.2.7.1.5), so none needs a pointer in the picture.

mod drawing;

use ironrdp_core::encode_vec;
use ironrdp_pdu::fast_path::UpdateCode;
use ironrdp_pdu::pointer::{CachedPointerAttribute, ColorPointerAttribute, Point16, PointerAttribute};
use lucid_desktop::Pointer;
use lucid_desktop::pointer::Shape;

use crate::trail::Drawn;
use crate::{Error, fastpath};
use drawing::Image;

/// What a client can do with pointers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Abilities {
    /// Entries of the cache for pointers of any depth; none when the client takes 24 bits alone.
    pub(crate) cache: u16,
    /// Entries of the cache for pointers of 24 bits.
    pub(crate) colour_cache: u16,
}

/// More entries are of no use: there are not so many shapes.
const MAX_CACHE: u16 = 64;

/// One client's pointers.
#[derive(Debug)]
pub(crate) struct Cursors {
    abilities: Abilities,
    /// What the client has at each place of its cache.
    cache: Vec<Option<Shape>>,
    /// The place that is overwritten next.
    next: usize,
    shown: Option<Pointer>,
}

impl Cursors {
    pub(crate) fn new(abilities: Abilities) -> Cursors {
        let entries = if abilities.cache > 0 { abilities.cache } else { abilities.colour_cache };
        let cache = vec![None; usize::from(entries.clamp(1, MAX_CACHE))];
        Cursors { abilities, cache, next: 0, shown: None }
    }

    /// The bytes that make the client show that pointer.
    pub(crate) fn show(&mut self, pointer: Pointer) -> Result<Vec<u8>, Error> {
        if self.shown == Some(pointer) {
            return Ok(Vec::new());
        }
        self.shown = Some(pointer);
        let (code, update) = match pointer {
            Pointer::Picture => (UpdateCode::HiddenPointer, Vec::new()),
            Pointer::Shape(shape) => self.shape(shape)?,
        };
        let mut out = Vec::new();
        fastpath::append(code, &update, &mut out)?;
        Ok(out)
    }

    /// A pointer as the client draws it; nothing, if it draws none.
    pub(crate) fn drawn(&self, pointer: Pointer) -> Option<Drawn> {
        let Pointer::Shape(shape) = pointer else { return None };
        let image = drawing::draw(shape, drawing::FIELD);
        let deep = self.abilities.cache > 0;
        let rgba = image.pixels.iter().flat_map(|[b, g, r, alpha]| match (deep, alpha) {
            (true, alpha) => [*r, *g, *b, *alpha],
            (false, 128..) => [*r, *g, *b, u8::MAX],
            (false, _) => [0; 4],
        });
        Some(Drawn { side: image.side, hotspot: image.hotspot, rgba: rgba.collect() })
    }

    fn shape(&mut self, shape: Shape) -> Result<(UpdateCode, Vec<u8>), Error> {
        let failed = |_| Error::Encode("a pointer");
        let index = |at: usize| u16::try_from(at).map_err(|_| Error::Encode("a pointer"));
        if let Some(at) = self.cache.iter().position(|s| *s == Some(shape)) {
            let cached = CachedPointerAttribute { cache_index: index(at)? };
            return Ok((UpdateCode::CachedPointer, encode_vec(&cached).map_err(failed)?));
        }
        let at = self.next;
        self.next = (self.next + 1) % self.cache.len();
        if let Some(place) = self.cache.get_mut(at) {
            *place = Some(shape);
        }
        let image = drawing::draw(shape, drawing::FIELD);
        let deep = self.abilities.cache > 0;
        let (xor_mask, and_mask) = (colours(&image, deep), transparency(&image));
        let color_pointer = ColorPointerAttribute {
            cache_index: index(at)?,
            hot_spot: Point16 { x: image.hotspot.0, y: image.hotspot.1 },
            width: image.side,
            height: image.side,
            xor_mask: &xor_mask,
            and_mask: &and_mask,
        };
        if deep {
            let update = PointerAttribute { xor_bpp: 32, color_pointer };
            Ok((UpdateCode::NewPointer, encode_vec(&update).map_err(failed)?))
        } else {
            Ok((UpdateCode::ColorPointer, encode_vec(&color_pointer).map_err(failed)?))
        }
    }
}

/// Rows from the bottom to the top, B G R and with `deep` alpha; sides are even, so rows need no padding.
fn colours(image: &Image, deep: bool) -> Vec<u8> {
    let rows = image.pixels.chunks_exact(usize::from(image.side)).rev();
    rows.flatten()
        .flat_map(|pixel| {
            // Without alpha a pixel is there or not.
            let visible = deep || pixel[3] > 127;
            let bytes = if visible { *pixel } else { [0; 4] };
            bytes.into_iter().take(if deep { 4 } else { 3 })
        })
        .collect()
}

/// One bit a pixel, set where nothing is drawn; rows from the bottom to the top, padded to 16 bits.
fn transparency(image: &Image) -> Vec<u8> {
    let side = usize::from(image.side);
    let mut mask = Vec::new();
    for row in image.pixels.chunks_exact(side).rev() {
        let start = mask.len();
        mask.resize(start + side.div_ceil(16) * 2, 0);
        for (x, pixel) in row.iter().enumerate() {
            if pixel[3] <= 127
                && let Some(byte) = mask.get_mut(start + x / 8)
            {
                *byte |= 0x80 >> (x % 8);
            }
        }
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;
    use ironrdp_core::{ReadCursor, decode, decode_cursor};
    use ironrdp_pdu::fast_path::{FastPathHeader, FastPathUpdatePdu};

    const ALL: Abilities = Abilities { cache: 25, colour_cache: 20 };

    fn update(bytes: &[u8]) -> (UpdateCode, Vec<u8>) {
        let mut cursor = ReadCursor::new(bytes);
        let mut whole = Vec::new();
        let mut code = None;
        while !cursor.is_empty() {
            let _: FastPathHeader = decode_cursor(&mut cursor).unwrap();
            let update: FastPathUpdatePdu<'_> = decode_cursor(&mut cursor).unwrap();
            code = Some(update.update_code);
            whole.extend_from_slice(update.data);
        }
        (code.unwrap(), whole)
    }

    #[test]
    fn a_shape_is_sent_once_and_named_by_its_place_from_then_on() {
        let mut cursors = Cursors::new(ALL);
        let (code, bytes) = update(&cursors.show(Pointer::Shape(Shape::TEXT)).unwrap());
        assert_eq!(code, UpdateCode::NewPointer);
        let sent: PointerAttribute<'_> = decode(&bytes).unwrap();
        assert_eq!((sent.xor_bpp, sent.color_pointer.width, sent.color_pointer.cache_index), (32, 32, 0));
        assert_eq!(sent.color_pointer.xor_mask.len(), 32 * 32 * 4);
        assert_eq!(sent.color_pointer.and_mask.len(), 32 * 4);
        assert!(cursors.show(Pointer::Shape(Shape::TEXT)).unwrap().is_empty(), "the same again");
        assert_eq!(update(&cursors.show(Pointer::Picture).unwrap()).0, UpdateCode::HiddenPointer);
        let (code, bytes) = update(&cursors.show(Pointer::Shape(Shape::TEXT)).unwrap());
        assert_eq!(code, UpdateCode::CachedPointer);
        assert_eq!(decode::<CachedPointerAttribute>(&bytes).unwrap().cache_index, 0);
    }

    #[test]
    fn a_cache_of_any_size_never_names_a_place_outside_of_it_nor_a_wrong_shape() {
        for cache in [1, 2, 25, u16::MAX] {
            let mut cursors = Cursors::new(Abilities { cache, ..ALL });
            let mut client = std::collections::HashMap::new();
            for i in 0..300 {
                let shape = Shape::ALL[i * 7 % Shape::ALL.len()];
                let bytes = cursors.show(Pointer::Shape(shape)).unwrap();
                if bytes.is_empty() {
                    continue;
                }
                match update(&bytes) {
                    (UpdateCode::NewPointer, bytes) => {
                        let at = decode::<PointerAttribute<'_>>(&bytes).unwrap().color_pointer.cache_index;
                        assert!(at < cache);
                        client.insert(at, shape);
                    }
                    (UpdateCode::CachedPointer, bytes) => {
                        let at = decode::<CachedPointerAttribute>(&bytes).unwrap().cache_index;
                        assert_eq!(client.get(&at), Some(&shape));
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[test]
    fn a_client_without_new_pointers_gets_24_bits() {
        let mut cursors = Cursors::new(Abilities { cache: 0, ..ALL });
        let (code, bytes) = update(&cursors.show(Pointer::Shape(Shape::DEFAULT)).unwrap());
        assert_eq!(code, UpdateCode::ColorPointer);
        let sent: ColorPointerAttribute<'_> = decode(&bytes).unwrap();
        assert_eq!((sent.width, sent.xor_mask.len()), (32, 32 * 32 * 3));
    }
}
