//! Where a device wants the samples of a picture.

use super::kernel::PictureFormat;
use crate::colour::I420;

/// How a device takes pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `V4L2_PIX_FMT_YUV420`: Y, Cb and Cr one after the other.
    Yuv420,
    /// `V4L2_PIX_FMT_NV12`: Y, then Cb and Cr in turns.
    Nv12,
}

impl Layout {
    /// All of them, the cheapest to fill first.
    pub const ALL: [Layout; 2] = [Layout::Yuv420, Layout::Nv12];

    /// Its FourCC.
    #[must_use]
    pub fn pixel_format(self) -> u32 {
        match self {
            Layout::Yuv420 => u32::from_le_bytes(*b"YU12"),
            Layout::Nv12 => u32::from_le_bytes(*b"NV12"),
        }
    }

    /// Hands each row of the picture to `write` with its offset within the one memory plane of `format`. Gives the
    /// bytes of the whole picture, or nothing if the format is too small for it or `write` refuses.
    pub fn place(
        self,
        picture: &I420,
        format: &PictureFormat,
        mut write: impl FnMut(usize, &[u8]) -> bool,
    ) -> Option<usize> {
        let (width, height) = picture.coded_size();
        let [(size, stride)] = format.planes[..] else { return None };
        let (size, stride, rows) = (size as usize, stride as usize, format.height as usize);
        if stride < width || rows < height || stride % 2 != 0 {
            return None;
        }
        // The chroma rows follow the rows that the device reckons with, which may be more than the picture's.
        let chroma = stride.checked_mul(rows)?;
        let total = chroma.checked_add(chroma / 2)?;
        if total > size {
            return None;
        }
        let mut put = |offset: usize, row: &[u8]| write(offset, row).then_some(());
        for (y, row) in picture.y().chunks_exact(width).enumerate() {
            put(y * stride, row)?;
        }
        let half = width / 2;
        let both = picture.u().chunks_exact(half).zip(picture.v().chunks_exact(half)).enumerate();
        match self {
            Layout::Yuv420 => {
                for (y, (u, v)) in both {
                    put(chroma + y * (stride / 2), u)?;
                    put(chroma + chroma / 4 + y * (stride / 2), v)?;
                }
            }
            Layout::Nv12 => {
                let mut row = vec![0; width];
                for (y, (u, v)) in both {
                    for (pair, (u, v)) in row.chunks_exact_mut(2).zip(u.iter().zip(v)) {
                        pair.copy_from_slice(&[*u, *v]);
                    }
                    put(chroma + y * stride, &row)?;
                }
            }
        }
        Some(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Picture, Rect};

    fn format(width: u32, height: u32, stride: u32) -> PictureFormat {
        let planes = vec![(stride * height * 3 / 2, stride)];
        PictureFormat { width, height, pixel_format: 0, planes }
    }

    fn picture() -> I420 {
        let (width, height) = (30, 20);
        let pixels: Vec<u8> = (0..width * height * 4).map(|i| (i * 37 % 251) as u8).collect();
        let whole = [Rect { x: 0, y: 0, width, height }];
        let mut planes = I420::new(width, height).unwrap();
        let stride = width as usize * 4;
        planes.convert(Picture { width, height, stride, pixels: &pixels, damage: &whole }).unwrap();
        planes
    }

    #[test]
    fn every_sample_goes_where_the_format_says_also_with_wider_rows_and_more_of_them() {
        let picture = picture();
        let (width, height) = picture.coded_size();
        for (stride, rows) in [(32, 32), (64, 32), (64, 48)] {
            for layout in Layout::ALL {
                let mut memory = vec![0xee; stride * rows * 3 / 2];
                let format = format(32, rows as u32, stride as u32);
                let total = layout.place(&picture, &format, |at, row| {
                    memory[at..at + row.len()].copy_from_slice(row);
                    true
                });
                assert_eq!(total, Some(memory.len()));
                for y in 0..height {
                    assert_eq!(memory[y * stride..][..width], picture.y()[y * width..][..width]);
                }
                for y in 0..height / 2 {
                    for x in 0..width / 2 {
                        let (u, v) = match layout {
                            Layout::Yuv420 => {
                                let at = stride * rows + y * stride / 2 + x;
                                (at, at + stride * rows / 4)
                            }
                            Layout::Nv12 => {
                                let at = stride * rows + y * stride + 2 * x;
                                (at, at + 1)
                            }
                        };
                        assert_eq!(memory[u], picture.u()[y * width / 2 + x]);
                        assert_eq!(memory[v], picture.v()[y * width / 2 + x]);
                    }
                }
            }
        }
    }

    #[test]
    fn a_format_that_is_too_small_or_has_other_planes_is_refused_before_anything_is_written() {
        let picture = picture();
        let good = format(32, 32, 32);
        let two = PictureFormat { planes: vec![(1024, 32), (512, 32)], ..good.clone() };
        let short = PictureFormat { planes: vec![(1535, 32)], ..good.clone() };
        let huge = PictureFormat { planes: vec![(u32::MAX, u32::MAX)], height: u32::MAX, ..good.clone() };
        for wrong in [two, short, huge, format(32, 16, 32), format(32, 32, 30), format(32, 32, 33)] {
            for layout in Layout::ALL {
                assert_eq!(layout.place(&picture, &wrong, |_, _| panic!("written")), None, "{wrong:?}");
            }
        }
        assert_eq!(Layout::Nv12.place(&picture, &good, |_, _| false), None);
    }
}
