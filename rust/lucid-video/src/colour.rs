//! BGRX to planar YUV 4:2:0, full-range BT.709.
//!
//! MS-RDPEGFX 3.3.8.3.1 decodes with the BT.709 matrix at full range (Rec. ITU-R BT.709-6, 3.2:
//! `Kr = 0.2126`, `Kb = 0.0722`; Y, Cb and Cr use 0..=255, Cb and Cr with 128 as their middle):
//!
//! ```text
//! Y  = 0.2126 R + 0.7152 G + 0.0722 B
//! Cb = 128 + (B - Y) / 1.8556
//! Cr = 128 + (R - Y) / 1.5748
//! ```
//!
//! A chroma sample is taken from the mean of its 2x2 pixels; where the picture ends within them (odd
//! sizes) the last column or row counts twice. Every sample is the real number above rounded to the
//! nearest integer (a half upwards) and cut at 255: there is no error of approximation at all.

use crate::{Error, MAX_HEIGHT, MAX_WIDTH, Picture};

/// A rectangle in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rect {
    /// Left edge.
    pub x: u32,
    /// Top edge.
    pub y: u32,
    /// Width.
    pub width: u32,
    /// Height.
    pub height: u32,
}

/// A picture in planar YUV 4:2:0, its size rounded up to multiples of 16. What lies beyond the picture
/// repeats its last column and row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct I420 {
    width: usize,
    height: usize,
    coded_width: usize,
    coded_height: usize,
    y: Vec<u8>,
    u: Vec<u8>,
    v: Vec<u8>,
}

impl I420 {
    /// Room for pictures of one size.
    ///
    /// # Errors
    /// When the size is 0 or above [`MAX_WIDTH`] x [`MAX_HEIGHT`].
    pub fn new(width: u32, height: u32) -> Result<I420, Error> {
        if !(1..=MAX_WIDTH).contains(&width) || !(1..=MAX_HEIGHT).contains(&height) {
            return Err(Error::Settings { width, height, what: "the size is 0 or too big" });
        }
        let (width, height) = (width as usize, height as usize);
        let (coded_width, coded_height) = (width.next_multiple_of(16), height.next_multiple_of(16));
        let samples = coded_width * coded_height;
        let plane = |length: usize| vec![0; length];
        Ok(I420 {
            width,
            height,
            coded_width,
            coded_height,
            y: plane(samples),
            u: plane(samples / 4),
            v: plane(samples / 4),
        })
    }

    /// Width and height of the planes in luma samples: multiples of 16.
    #[must_use]
    pub fn coded_size(&self) -> (usize, usize) {
        (self.coded_width, self.coded_height)
    }

    /// Luma, rows of the coded width.
    #[must_use]
    pub fn y(&self) -> &[u8] {
        &self.y
    }

    /// Cb, rows of half the coded width.
    #[must_use]
    pub fn u(&self) -> &[u8] {
        &self.u
    }

    /// Cr, rows of half the coded width.
    #[must_use]
    pub fn v(&self) -> &[u8] {
        &self.v
    }

    /// Converts the whole picture.
    ///
    /// # Errors
    /// When the picture is of another size or its pixels are too few.
    pub fn convert(&mut self, picture: Picture<'_>) -> Result<(), Error> {
        let whole = Rect { x: 0, y: 0, width: picture.width, height: picture.height };
        self.convert_damage(Picture { damage: &[whole], ..picture })
    }

    /// Converts the picture's damaged rectangles, cut to the picture and widened to even edges. If
    /// nothing else has changed since the last conversion, the result is that of [`I420::convert`].
    ///
    /// # Errors
    /// When the picture is of another size or its pixels are too few.
    pub fn convert_damage(&mut self, picture: Picture<'_>) -> Result<(), Error> {
        let (width, height) = (picture.width, picture.height);
        let wrong = |what| Error::Picture { width, height, what };
        if (width as usize, height as usize) != (self.width, self.height) {
            return Err(wrong("its size is not the encoder's"));
        }
        let row_bytes = self.width * 4;
        if picture.stride < row_bytes {
            return Err(wrong("its stride is less than a row"));
        }
        let needed = picture.stride.checked_mul(self.height - 1).and_then(|b| b.checked_add(row_bytes));
        if needed.is_none_or(|needed| picture.pixels.len() < needed) {
            return Err(wrong("it has too few pixels"));
        }
        for rect in picture.damage {
            let left = (rect.x.min(width) & !1) as usize;
            let top = (rect.y.min(height) & !1) as usize;
            // The widened edge of an odd size is the edge of the picture.
            let right = (rect.x.saturating_add(rect.width) as usize).next_multiple_of(2).min(self.width);
            let bottom = (rect.y.saturating_add(rect.height) as usize).next_multiple_of(2).min(self.height);
            if left < right && top < bottom && rect.width > 0 && rect.height > 0 {
                self.convert_rect(picture, (left, right), (top, bottom));
            }
        }
        Ok(())
    }

    fn convert_rect(
        &mut self,
        picture: Picture<'_>,
        (left, right): (usize, usize),
        (top, bottom): (usize, usize),
    ) {
        let half = self.coded_width / 2;
        let pixels = |y: usize| &picture.pixels[y * picture.stride..][left * 4..right * 4];
        for y in (top..bottom).step_by(2) {
            let upper = pixels(y);
            let lower = if y + 1 < bottom { pixels(y + 1) } else { upper };
            luma_row(upper, &mut self.y[y * self.coded_width..][left..right]);
            if y + 1 < bottom {
                luma_row(lower, &mut self.y[(y + 1) * self.coded_width..][left..right]);
            }
            let chroma = y / 2 * half;
            let columns = left / 2..right.div_ceil(2);
            chroma_row(upper, lower, &mut self.u[chroma..][columns.clone()], &mut self.v[chroma..][columns]);
        }
        if right == self.width {
            let luma = &mut self.y[top * self.coded_width..bottom * self.coded_width];
            repeat_last_column(luma, self.coded_width, self.width);
            let rows = top / 2 * half..bottom.div_ceil(2) * half;
            for plane in [&mut self.u, &mut self.v] {
                repeat_last_column(&mut plane[rows.clone()], half, self.width.div_ceil(2));
            }
        }
        if bottom == self.height {
            // The padded columns included: they may have changed as well.
            repeat_last_row(&mut self.y, self.coded_width, self.height, left);
            for plane in [&mut self.u, &mut self.v] {
                repeat_last_row(plane, half, self.height.div_ceil(2), left / 2);
            }
        }
    }
}

fn repeat_last_column(rows: &mut [u8], stride: usize, width: usize) {
    for row in rows.chunks_exact_mut(stride) {
        let last = row[width - 1];
        row[width..].fill(last);
    }
}

fn repeat_last_row(plane: &mut [u8], stride: usize, height: usize, left: usize) {
    let (picture, padding) = plane.split_at_mut(height * stride);
    let last = &picture[(height - 1) * stride..];
    for row in padding.chunks_exact_mut(stride) {
        row[left..].copy_from_slice(&last[left..]);
    }
}

/// `floor(m / divisor)` for integers `m` that make it at most 256, and `inverse = 1 / divisor` with a
/// divisor of at most 5000.
///
/// Exact: `(m + 0.5) / divisor` is at least `0.5 / 5000 = 1e-4` away from an integer, and the three
/// roundings of f32 are off by less than `256 * 1.5 * 2^-23 = 4.6e-5`. Added to 2^23, where f32's step
/// is 1, the quotient is rounded to the nearest integer, which then stands in the lowest bits: this way
/// vectorises on every machine, a conversion with saturation does not.
#[inline(always)]
fn quotient(m: f32, inverse: f32) -> f32 {
    (m + 0.5) * inverse - 0.5
}

/// The lowest bits of the nearest integer.
#[inline(always)]
fn to_integer(value: f32) -> u8 {
    (value + 8_388_608.0).to_bits() as u8
}

/// `round((2126 R + 7152 G + 722 B) / 10000)`, everything halved.
#[inline(always)]
fn luma(pixel: u32) -> u8 {
    let channel = |shift: u32| ((pixel >> shift) & 255) as i32;
    let m = 1063 * channel(16) + 3576 * channel(8) + 361 * channel(0) + 2500;
    to_integer(quotient(m as f32, 1.0 / 5000.0))
}

/// `round(numerator / (8 * eighth) + 128)`, cut at 255, where the numerator is below 2^23 in magnitude.
#[inline(always)]
fn divide(numerator: i32, eighth: i32, inverse: f32) -> u8 {
    let denominator = 8 * eighth;
    let m = (numerator + 128 * denominator + denominator / 2) >> 3;
    // At most 256, and that only by the half that was added.
    to_integer(quotient(m as f32, inverse).min(255.0))
}

/// `Cb` of the sums of four pixels, as [`sums`] gives them. With `Y` put in, `Cb - 128` is
/// `(0.9278 B - 0.2126 R - 0.7152 G) / 1.8556`, and the fraction is doubled by 5000.
#[inline(always)]
fn blue_difference((red_blue, green): (u32, u32)) -> u8 {
    let (b, g, r) = ((red_blue & 0xffff) as i32, green as i32, (red_blue >> 16) as i32);
    divide(4639 * b - 1063 * r - 3576 * g, 4639, 1.0 / 4639.0)
}

/// `Cr` likewise: `Cr - 128` is `(0.7874 R - 0.7152 G - 0.0722 B) / 1.5748`.
#[inline(always)]
fn red_difference((red_blue, green): (u32, u32)) -> u8 {
    let (b, g, r) = ((red_blue & 0xffff) as i32, green as i32, (red_blue >> 16) as i32);
    divide(3937 * r - 3576 * g - 361 * b, 3937, 1.0 / 3937.0)
}

#[inline(always)]
fn chroma_of(sums: (u32, u32)) -> (u8, u8) {
    (blue_difference(sums), red_difference(sums))
}

fn luma_row(pixels: &[u8], out: &mut [u8]) {
    for (out, pixel) in out.iter_mut().zip(pixels.as_chunks::<4>().0) {
        *out = luma(u32::from_le_bytes(*pixel));
    }
}

/// Pairs of pixels that are worked on side by side: as many as the compiler turns into vector instructions in one go.
const LANES: usize = 16;

fn chroma_row(upper: &[u8], lower: &[u8], u: &mut [u8], v: &mut [u8]) {
    let (upper, lower) = (upper.as_chunks::<4>().0, lower.as_chunks::<4>().0);
    let (upper_pairs, upper_rest) = upper.as_chunks::<2>();
    let (lower_pairs, lower_rest) = lower.as_chunks::<2>();
    let pairs = upper_pairs.len();
    let (upper_lanes, _) = upper_pairs.as_chunks::<LANES>();
    let (lower_lanes, _) = lower_pairs.as_chunks::<LANES>();
    let lanes = u.as_chunks_mut::<LANES>().0.iter_mut().zip(v.as_chunks_mut::<LANES>().0);
    for (((u, v), a), b) in lanes.zip(upper_lanes).zip(lower_lanes) {
        chroma_lanes(a, b, u, v);
    }
    for at in pairs / LANES * LANES..pairs {
        let (a, b) = (upper_pairs[at], lower_pairs[at]);
        (u[at], v[at]) = chroma_of(sums(a[0], a[1], b[0], b[1]));
    }
    if let (&[a], &[b]) = (upper_rest, lower_rest) {
        (u[pairs], v[pairs]) = chroma_of(sums(a, a, b, b));
    }
}

/// Loops of a fixed length over plain arrays, one thing after the other: this becomes vector instructions on x86-64 and
/// on aarch64. In one loop over four iterators it did not, and took four times as long.
fn chroma_lanes(
    upper: &[[[u8; 4]; 2]; LANES],
    lower: &[[[u8; 4]; 2]; LANES],
    u: &mut [u8; LANES],
    v: &mut [u8; LANES],
) {
    let mut all = [(0, 0); LANES];
    for at in 0..LANES {
        all[at] = sums(upper[at][0], upper[at][1], lower[at][0], lower[at][1]);
    }
    for at in 0..LANES {
        u[at] = blue_difference(all[at]);
    }
    for at in 0..LANES {
        v[at] = red_difference(all[at]);
    }
}

/// The sums of four pixels: blue in the lower half of the first word and red in the upper, green in the second.
#[inline(always)]
fn sums(a: [u8; 4], b: [u8; 4], c: [u8; 4], d: [u8; 4]) -> (u32, u32) {
    let (a, b) = (u32::from_le_bytes(a), u32::from_le_bytes(b));
    let (c, d) = (u32::from_le_bytes(c), u32::from_le_bytes(d));
    // Two sums in one word: each stays below 2^16.
    let even = |p: u32| p & 0x00ff_00ff;
    let red_blue = even(a) + even(b) + even(c) + even(d);
    let green = even(a >> 8) + even(b >> 8) + even(c >> 8) + even(d >> 8);
    (red_blue, green & 0xffff)
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn luma_of_every_colour_is_the_real_number_rounded_half_upwards() {
        for pixel in 0..1_u32 << 24 {
            let (b, g, r) = (pixel & 255, (pixel >> 8) & 255, pixel >> 16);
            let exact = (2126 * r + 7152 * g + 722 * b + 5000) / 10_000;
            assert_eq!(u32::from(luma(pixel | 0xff00_0000)), exact, "{pixel:06x}");
        }
    }

    #[test]
    fn every_chroma_quotient_is_the_real_number_rounded_half_upwards_and_cut_at_255() {
        for (eighth, inverse) in [(4639, 1.0 / 4639.0), (3937, 1.0 / 3937.0)] {
            let most = eighth * 1020; // four pixels of the one channel that counts positively
            for numerator in -most..=most {
                let denominator = i64::from(eighth) * 8;
                let exact = (2 * i64::from(numerator) + 257 * denominator).div_euclid(2 * denominator);
                assert_eq!(i64::from(divide(numerator, eighth, inverse)), exact.min(255), "{numerator}");
            }
        }
    }

    #[test]
    fn black_grey_and_white_use_the_full_range_and_no_colour() {
        for grey in 0..=255 {
            assert_eq!(luma(u32::from_le_bytes([grey, grey, grey, 0])), grey);
            let sum = 4 * u32::from(grey);
            assert_eq!(chroma_of((sum << 16 | sum, sum)), (128, 128));
        }
    }
}
