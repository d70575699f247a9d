//! ClearCodec (MS-RDPEGFX 2.2.4.1), the lossless codec for text and flat parts.
//!
//! ironrdp-graphics has an encoder too, of the residual layer alone: 4 bytes for every run of a colour. This one
//! also uses what makes ClearCodec good at text, the bands layer, whose columns of glyphs ("V-bars") are sent once
//! and named by 2 or 3 bytes afterwards, and the RLEX subcodec for pictures of few colours. The ironrdp decoder
//! reads all of it and is what the tests hold this against.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, BuildHasherDefault, Hasher, RandomState};

/// A blue, green, red pixel as `0x00RRGGBB`.
pub(crate) type Pixel = u32;

/// The most columns of a bitmap that is encoded at a time.
pub(crate) const MAX_WIDTH: usize = 512;
/// The most rows of a bitmap that is encoded at a time.
pub(crate) const MAX_HEIGHT: usize = 64;

/// MS-RDPEGFX 2.2.4.1: `CLEARCODEC_FLAG_CACHE_RESET`.
const FLAG_CACHE_RESET: u8 = 0x04;
/// MS-RDPEGFX 2.2.4.1.1.2: the highest band.
const MAX_BAND: usize = 52;
/// MS-RDPEGFX 3.3.8.1: V-bars that the client keeps.
const VBARS: u16 = 32_768;
/// MS-RDPEGFX 3.3.8.1: short V-bars that the client keeps.
const SHORT_VBARS: u16 = 16_384;
/// MS-RDPEGFX 2.2.4.1.1.3.1.1: colours of an RLEX palette.
const MAX_PALETTE: usize = 127;
/// Columns of background that part two bands: fewer cost less than another band's header of 11 bytes.
const GAP: usize = 7;

/// Encodes bitmaps one after the other; the client's caches follow the order.
pub(crate) struct ClearCodec {
    sequence: u8,
    fresh: bool,
    vbars: Ring,
    shorts: Ring,
    /// Short V-bars that were met but sent another way.
    met: Ring,
    seeds: [u64; 2],
    background: Colours,
    palette: Colours,
    column: Vec<Pixel>,
    columns: Vec<Column>,
}

/// A column of a band, looked at but not yet sent.
#[derive(Clone, Copy)]
struct Column {
    key: u64,
    short: u64,
    /// Rows of the band from the first to behind the last that is not background.
    on: u8,
    off: u8,
}

/// A rectangle within the bitmap.
#[derive(Clone, Copy, Debug)]
struct Area {
    x: usize,
    y: usize,
    width: usize,
    height: usize,
}

struct Bitmap<'a> {
    width: usize,
    pixels: &'a [Pixel],
}

impl Bitmap<'_> {
    fn row(&self, area: Area, y: usize) -> &[Pixel] {
        &self.pixels[(area.y + y) * self.width + area.x..][..area.width]
    }
}

impl ClearCodec {
    pub(crate) fn new() -> ClearCodec {
        let state = RandomState::new();
        ClearCodec {
            sequence: 0,
            fresh: true,
            vbars: Ring::new(VBARS),
            shorts: Ring::new(SHORT_VBARS),
            met: Ring::new(SHORT_VBARS),
            // Keyed, so that no program on the desktop can make two columns that are taken for one another.
            seeds: [state.hash_one(0u8), state.hash_one(1u8) | 1],
            background: Colours::default(),
            palette: Colours::default(),
            column: Vec::new(),
            columns: Vec::new(),
        }
    }

    /// The next bitmap needs nothing of those before.
    pub(crate) fn forget(&mut self) {
        // MS-RDPEGFX 2.2.4.1: the numbers of the bitmaps go on.
        *self = ClearCodec { sequence: self.sequence, ..ClearCodec::new() };
    }

    /// The `CLEARCODEC_BITMAP_STREAM` of a bitmap: rows without gaps, at most [`MAX_WIDTH`] by [`MAX_HEIGHT`].
    pub(crate) fn encode(&mut self, width: usize, pixels: &[Pixel]) -> Vec<u8> {
        let height = pixels.len() / width;
        let bitmap = Bitmap { width, pixels };
        let whole = Area { x: 0, y: 0, width, height };

        self.background.clear();
        for run in pixels.chunk_by(|a, b| a == b) {
            self.background.add(run[0], run.len());
        }
        let background = self.background.most_frequent();

        let mut residual = Vec::new();
        colour(background, &mut residual);
        run_length(width * height, &mut residual);
        let mut bands = Vec::new();
        let mut subcodecs = Vec::new();
        for_each_part(&bitmap, whole, background, |part| {
            self.part(&bitmap, part, background, &mut bands, &mut subcodecs);
        });

        let mut out = Vec::with_capacity(14 + residual.len() + bands.len() + subcodecs.len());
        out.push(if std::mem::take(&mut self.fresh) { FLAG_CACHE_RESET } else { 0 });
        out.push(self.sequence);
        self.sequence = self.sequence.wrapping_add(1);
        for layer in [&residual, &bands, &subcodecs] {
            // A bitmap is at most 128 KiB.
            out.extend_from_slice(&(layer.len() as u32).to_le_bytes());
        }
        for layer in [&residual, &bands, &subcodecs] {
            out.extend_from_slice(layer);
        }
        out
    }

    /// Encodes a part that is not background, in the cheaper of three ways.
    fn part(
        &mut self,
        bitmap: &Bitmap<'_>,
        part: Area,
        background: Pixel,
        bands: &mut Vec<u8>,
        subcodecs: &mut Vec<u8>,
    ) {
        let raw = 13 + part.width * part.height * 3;
        let rlex = self.count_rlex(bitmap, part).map_or(usize::MAX, |bytes| bytes + 13);
        if part.height <= MAX_BAND {
            let band = self.count_band(bitmap, part, background);
            if band <= rlex.min(raw) {
                self.band(bitmap, part, background, bands);
                return;
            }
            for column in &self.columns {
                if self.met.find(column.short).is_none() {
                    self.met.add(column.short);
                }
            }
        }
        for field in [part.x, part.y, part.width, part.height] {
            subcodecs.extend_from_slice(&(field as u16).to_le_bytes());
        }
        let length_at = subcodecs.len();
        subcodecs.extend_from_slice(&[0; 4]);
        if rlex < raw {
            subcodecs.push(2);
            self.rlex(bitmap, part, subcodecs);
        } else {
            subcodecs.push(0);
            for y in 0..part.height {
                for pixel in bitmap.row(part, y) {
                    colour(*pixel, subcodecs);
                }
            }
        }
        let length = (subcodecs.len() - length_at - 5) as u32;
        subcodecs[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }

    fn hash(&self, pixels: &[Pixel], seed: u64) -> u64 {
        // The length is mixed in first: the pixels could else make up for it.
        let mut state = fold(self.seeds[0] ^ (seed << 32 | pixels.len() as u64), self.seeds[1]);
        for pair in pixels.chunks(2) {
            let word = u64::from(pair[0]) | u64::from(pair.get(1).copied().unwrap_or(0)) << 32;
            state = fold(state ^ word, self.seeds[1]);
        }
        fold(state, self.seeds[1] ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// Looks at the columns of a band; returns its bytes, less what it saves later.
    fn count_band(&mut self, bitmap: &Bitmap<'_>, part: Area, background: Pixel) -> usize {
        let mut bytes = 11;
        let mut columns = std::mem::take(&mut self.columns);
        let mut column = std::mem::take(&mut self.column);
        columns.clear();
        for x in 0..part.width {
            column.clear();
            let first = part.y * bitmap.width + part.x + x;
            column.extend(bitmap.pixels[first..].iter().step_by(bitmap.width).take(part.height));
            let on = column.iter().position(|p| *p != background).unwrap_or(0);
            let off = column.iter().rposition(|p| *p != background).map_or(0, |last| last + 1);
            let looked = Column {
                key: self.hash(&column, 0),
                short: self.hash(&column[on..off], 1),
                // At most 52.
                on: on as u8,
                off: off as u8,
            };
            columns.push(looked);
            bytes += if self.vbars.find(looked.key).is_some() {
                2
            } else if self.shorts.find(looked.short).is_some() {
                3
            } else if self.met.find(looked.short).is_some() {
                // It comes again, and will then be had for 2 or 3 bytes.
                2 + (off - on) / 2
            } else {
                2 + 3 * (off - on)
            };
        }
        self.columns = columns;
        self.column = column;
        bytes
    }

    /// Writes the band that was just looked at.
    fn band(&mut self, bitmap: &Bitmap<'_>, part: Area, background: Pixel, out: &mut Vec<u8>) {
        for field in [part.x, part.x + part.width - 1, part.y, part.y + part.height - 1] {
            out.extend_from_slice(&(field as u16).to_le_bytes());
        }
        colour(background, out);
        for (x, column) in self.columns.iter().enumerate() {
            if let Some(index) = self.vbars.find(column.key) {
                out.extend_from_slice(&(0x8000 | index).to_le_bytes());
                continue;
            }
            if let Some(index) = self.shorts.find(column.short) {
                out.extend_from_slice(&(0x4000 | index).to_le_bytes());
                out.push(column.on);
            } else {
                out.extend_from_slice(&[column.on, column.off]);
                for y in column.on..column.off {
                    colour(bitmap.pixels[(part.y + usize::from(y)) * bitmap.width + part.x + x], out);
                }
                self.shorts.add(column.short);
            }
            self.vbars.add(column.key);
        }
    }

    /// Collects the palette; returns the bytes of the RLEX form, or `None` when there are too many colours.
    fn count_rlex(&mut self, bitmap: &Bitmap<'_>, part: Area) -> Option<usize> {
        self.palette.clear();
        let mut runs = 0;
        let mut before = None;
        for y in 0..part.height {
            for run in bitmap.row(part, y).chunk_by(|a, b| a == b) {
                if before != Some(run[0]) {
                    runs += 1;
                    before = Some(run[0]);
                }
                self.palette.add(run[0], run.len());
                if self.palette.len() > MAX_PALETTE {
                    return None;
                }
            }
        }
        Some(1 + 3 * self.palette.len() + 2 * runs)
    }

    /// Writes the RLEX form (MS-RDPEGFX 2.2.4.1.1.3.1.1) with the palette just collected: each segment is a run
    /// of one colour, then a suite that walks up the palette.
    fn rlex(&mut self, bitmap: &Bitmap<'_>, part: Area, out: &mut Vec<u8>) {
        let colours = self.palette.sort_by_frequency();
        out.push(colours as u8);
        for index in 0..colours {
            colour(self.palette.entries[index].0, out);
        }
        let stop_bits = (usize::BITS - (colours - 1).leading_zeros()).max(1);
        let max_depth = (1 << (8 - stop_bits)) - 1;
        let indices: Vec<u8> = (0..part.height)
            .flat_map(|y| bitmap.row(part, y).iter())
            .map(|pixel| self.palette.index(*pixel))
            .collect();
        let mut at = 0;
        while at < indices.len() {
            let start = indices[at];
            let run = indices[at..].iter().take_while(|i| **i == start).count();
            // The last pixel of the run begins the suite.
            at += run;
            let mut stop = start;
            while at < indices.len() && stop - start < max_depth && indices[at] == stop + 1 {
                // A longer run of that colour is better off as a segment of its own.
                if indices.get(at + 1) == Some(&indices[at]) && indices.get(at + 2) == Some(&indices[at]) {
                    break;
                }
                stop += 1;
                at += 1;
            }
            out.push(stop | (stop - start) << stop_bits);
            run_length(run - 1, out);
        }
    }
}

/// The parts of a bitmap that are not background, cut at empty columns and rows: a line of text becomes a part.
fn for_each_part(bitmap: &Bitmap<'_>, whole: Area, background: Pixel, mut each: impl FnMut(Area)) {
    let mut blocks = Vec::new();
    cut_columns(bitmap, whole, background, &mut blocks);
    for block in blocks {
        let filled = |y: &usize| bitmap.row(block, *y).iter().any(|p| *p != background);
        let mut y = 0;
        while let Some(top) = (y..block.height).find(filled) {
            let mut bottom = (top..block.height).find(|y| !filled(y)).unwrap_or(block.height);
            if bottom - top > MAX_BAND {
                bottom = top + MAX_BAND;
            }
            let line = Area { y: block.y + top, height: bottom - top, ..block };
            let mut words = Vec::new();
            cut_columns(bitmap, line, background, &mut words);
            words.into_iter().for_each(&mut each);
            y = bottom;
        }
    }
}

/// Cuts an area where at least [`GAP`] columns are background.
fn cut_columns(bitmap: &Bitmap<'_>, area: Area, background: Pixel, out: &mut Vec<Area>) {
    let mut filled = [false; MAX_WIDTH];
    for y in 0..area.height {
        for (filled, pixel) in filled.iter_mut().zip(bitmap.row(area, y)) {
            *filled |= *pixel != background;
        }
    }
    let filled = &filled[..area.width];
    let mut x = 0;
    while let Some(left) = filled[x..].iter().position(|f| *f).map(|at| x + at) {
        let mut right = left + 1;
        let mut empty = 0;
        for (at, filled) in filled.iter().enumerate().skip(left) {
            if *filled {
                right = at + 1;
                empty = 0;
            } else {
                empty += 1;
                if empty == GAP {
                    break;
                }
            }
        }
        out.push(Area { x: area.x + left, width: right - left, ..area });
        x = right;
    }
}

fn colour(pixel: Pixel, out: &mut Vec<u8>) {
    out.extend_from_slice(&pixel.to_le_bytes()[..3]);
}

/// MS-RDPEGFX 2.2.4.1.1.1.1: one, three or seven bytes.
fn run_length(run: usize, out: &mut Vec<u8>) {
    if run < 0xff {
        out.push(run as u8);
    } else {
        out.push(0xff);
        if run < 0xffff {
            out.extend_from_slice(&(run as u16).to_le_bytes());
        } else {
            out.extend_from_slice(&[0xff, 0xff]);
            out.extend_from_slice(&(run as u32).to_le_bytes());
        }
    }
}

/// Multiplies to 128 bits and folds the halves.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// A cache as the client has it: it fills up in order and begins anew at its end.
struct Ring {
    indices: HashMap<u64, u16, BuildHasherDefault<AsIs>>,
    keys: Vec<u64>,
    next: u16,
    length: u16,
}

impl Ring {
    fn new(length: u16) -> Ring {
        Ring { indices: HashMap::default(), keys: Vec::new(), next: 0, length }
    }

    fn find(&self, key: u64) -> Option<u16> {
        self.indices.get(&key).copied()
    }

    fn add(&mut self, key: u64) {
        let at = usize::from(self.next);
        if let Some(slot) = self.keys.get_mut(at) {
            let old = std::mem::replace(slot, key);
            if self.indices.get(&old) == Some(&self.next) {
                self.indices.remove(&old);
            }
        } else {
            self.keys.push(key);
        }
        self.indices.insert(key, self.next);
        self.next = (self.next + 1) % self.length;
    }
}

/// For keys that are hashes already.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// Colours and how many pixels have each: an open hash table that stops counting new ones when half full.
struct Colours {
    /// Slot to entry, plus one.
    slots: Box<[u8; 512]>,
    entries: Vec<(Pixel, usize)>,
}

impl Default for Colours {
    fn default() -> Colours {
        Colours { slots: Box::new([0; 512]), entries: Vec::with_capacity(255) }
    }
}

impl Colours {
    fn clear(&mut self) {
        self.slots.fill(0);
        self.entries.clear();
    }

    fn len(&self) -> usize {
        self.entries.len()
    }

    fn slot(&self, pixel: Pixel) -> usize {
        let mut slot = (pixel.wrapping_mul(0x9e37_79b1) >> 23) as usize;
        while self.slots[slot] != 0 && self.entries[usize::from(self.slots[slot]) - 1].0 != pixel {
            slot = (slot + 1) % 512;
        }
        slot
    }

    fn add(&mut self, pixel: Pixel, count: usize) {
        let slot = self.slot(pixel);
        match self.slots[slot] {
            0 if self.entries.len() < 255 => {
                self.entries.push((pixel, count));
                self.slots[slot] = self.entries.len() as u8;
            }
            0 => {}
            entry => self.entries[usize::from(entry) - 1].1 += count,
        }
    }

    fn most_frequent(&self) -> Pixel {
        self.entries.iter().max_by_key(|(_, count)| *count).map_or(0, |(pixel, _)| *pixel)
    }

    /// Puts the most frequent first; returns how many there are.
    fn sort_by_frequency(&mut self) -> usize {
        self.entries.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        self.slots.fill(0);
        for index in 0..self.entries.len() {
            let slot = self.slot(self.entries[index].0);
            self.slots[slot] = index as u8 + 1;
        }
        self.entries.len()
    }

    fn index(&self, pixel: Pixel) -> u8 {
        self.slots[self.slot(pixel)] - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ironrdp_graphics::clearcodec::ClearCodecDecoder;

    fn decode(decoder: &mut ClearCodecDecoder, bytes: &[u8], width: usize, height: usize) -> Vec<Pixel> {
        let bgra = decoder.decode(bytes, width as u16, height as u16).unwrap();
        bgra.chunks_exact(4).map(|p| u32::from_le_bytes([p[0], p[1], p[2], 0])).collect()
    }

    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % limit
        }
    }

    /// Something like glyphs, noise, boxes and gradients on one colour.
    fn bitmap(random: &mut Random, width: usize, height: usize) -> Vec<Pixel> {
        let background = random.below(3) as u32 * 0x0040_2010;
        let mut pixels = vec![background; width * height];
        for _ in 0..random.below(40) {
            let kind = random.below(5);
            let (x, y) = (random.below(width), random.below(height));
            let (w, h) = (1 + random.below((width - x).min(70)), 1 + random.below((height - y).min(64)));
            let seed = random.below(30);
            for row in y..y + h {
                for column in x..x + w {
                    pixels[row * width + column] = match kind {
                        0 => random.below(1 << 24) as u32,
                        1 => 0x00ff_ffff,
                        2 => (column - x) as u32 * 0x0003_0201,
                        3 => background,
                        _ => {
                            let bit = (column - x) % 9 * 31 + (row - y) % 17 * 7 + seed;
                            if bit * bit % 11 < 4 { 0x00c0_c0c0 + (bit % 16) as u32 } else { background }
                        }
                    };
                }
            }
        }
        pixels
    }

    #[test]
    fn whatever_is_encoded_comes_back_exactly_while_both_caches_wrap() {
        let mut random = Random(1);
        let mut encoder = ClearCodec::new();
        let mut decoder = ClearCodecDecoder::new();
        for round in 0..1500 {
            let (width, height) = (1 + random.below(MAX_WIDTH), 1 + random.below(MAX_HEIGHT));
            let pixels = bitmap(&mut random, width, height);
            let bytes = encoder.encode(width, &pixels);
            let seen = decode(&mut decoder, &bytes, width, height);
            let wrong = seen.iter().zip(&pixels).position(|(a, b)| a != b).map(|at| (at % width, at / width));
            assert_eq!(wrong, None, "round {round}, {width}x{height}");
        }
        assert_eq!(encoder.vbars.keys.len(), usize::from(VBARS), "the caches were to wrap");
        assert_eq!(encoder.shorts.keys.len(), usize::from(SHORT_VBARS), "the caches were to wrap");
    }

    #[test]
    fn a_palette_of_any_size_comes_back_exactly() {
        for colours in 1..=140u32 {
            let pixels: Vec<Pixel> = (0..64 * 64u32)
                .map(|i| (i.wrapping_mul(i) >> 3) % colours * 0x0001_0307 % 0x0100_0000)
                .collect();
            let mut encoder = ClearCodec::new();
            let bytes = encoder.encode(64, &pixels);
            assert!(decode(&mut ClearCodecDecoder::new(), &bytes, 64, 64) == pixels, "{colours}");
        }
    }

    #[test]
    fn a_glyph_seen_before_costs_a_few_bytes_a_column() {
        let mut random = Random(3);
        let mut glyph = vec![0x0010_1010; 10 * 22];
        glyph[25..190].fill_with(|| if random.below(2) == 0 { 0x0010_1010 } else { 0x00e0_e0e0 });
        let mut encoder = ClearCodec::new();
        // The second time it is worth keeping.
        encoder.encode(10, &glyph);
        encoder.encode(10, &glyph);
        let again = encoder.encode(10, &glyph);
        assert!(again.len() <= 14 + 4 + 11 + 10 * 2, "{}", again.len());
    }
}
