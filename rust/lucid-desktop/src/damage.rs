//! A bounded set of damaged rectangles.

use crate::Rect;

/// The most rectangles that are kept apart; beyond that the two whose union wastes least are merged.
pub const MAX_DAMAGE: usize = 32;

/// Damaged rectangles within a picture. They may overlap, but none lies within another.
#[derive(Clone, Debug, Default)]
pub(crate) struct Damage {
    rects: Vec<Rect>,
}

fn area(rect: Rect) -> u64 {
    u64::from(rect.width) * u64::from(rect.height)
}

fn union(a: Rect, b: Rect) -> Rect {
    let (x, y) = (a.x.min(b.x), a.y.min(b.y));
    let right = (a.x + a.width).max(b.x + b.width);
    let bottom = (a.y + a.height).max(b.y + b.height);
    Rect { x, y, width: right - x, height: bottom - y }
}

/// Cuts a rectangle of the compositor's to the picture; none if nothing is left.
pub(crate) fn clip(x: i32, y: i32, width: i32, height: i32, picture: (u32, u32)) -> Option<Rect> {
    let cut = |start: i32, length: i32, limit: u32| {
        let begin = i64::from(start).clamp(0, i64::from(limit));
        let end = (i64::from(start) + i64::from(length)).clamp(0, i64::from(limit));
        let length = u32::try_from(end - begin).ok().filter(|&l| l > 0)?;
        Some((u32::try_from(begin).ok()?, length))
    };
    let (x, width) = cut(x, width, picture.0)?;
    let (y, height) = cut(y, height, picture.1)?;
    Some(Rect { x, y, width, height })
}

/// Cuts a rectangle to a picture that it may be outside of; none if nothing is left.
pub(crate) fn clip_rect(rect: Rect, picture: (u32, u32)) -> Option<Rect> {
    let int = |v: u32| i32::try_from(v).unwrap_or(i32::MAX);
    clip(int(rect.x), int(rect.y), int(rect.width), int(rect.height), picture)
}

impl Damage {
    pub(crate) fn is_empty(&self) -> bool {
        self.rects.is_empty()
    }

    pub(crate) fn rects(&self) -> &[Rect] {
        &self.rects
    }

    pub(crate) fn clear(&mut self) {
        self.rects.clear();
    }

    /// Everything is damaged.
    pub(crate) fn all(&mut self, (width, height): (u32, u32)) {
        self.rects.clear();
        self.rects.push(Rect { x: 0, y: 0, width, height });
    }

    /// Adds a rectangle that lies within the picture.
    pub(crate) fn add(&mut self, mut rect: Rect) {
        // A union that wastes nothing (side by side, one within the other) replaces both; it may in
        // turn fit another.
        while let Some(at) = self
            .rects
            .iter()
            .position(|&other| area(union(rect, other)) <= area(rect) + area(other) - overlap(rect, other))
        {
            rect = union(rect, self.rects.swap_remove(at));
        }
        self.rects.push(rect);
        if self.rects.len() > MAX_DAMAGE {
            self.merge_cheapest();
        }
    }

    fn merge_cheapest(&mut self) {
        let mut best = (u64::MAX, 0, 1);
        for (i, &a) in self.rects.iter().enumerate() {
            for (j, &b) in self.rects.iter().enumerate().skip(i + 1) {
                let waste = area(union(a, b)).saturating_sub(area(a) + area(b));
                if waste < best.0 {
                    best = (waste, i, j);
                }
            }
        }
        let b = self.rects.swap_remove(best.2);
        let a = self.rects.swap_remove(best.1);
        self.add(union(a, b));
    }
}

fn overlap(a: Rect, b: Rect) -> u64 {
    let width = (a.x + a.width).min(b.x + b.width).saturating_sub(a.x.max(b.x));
    let height = (a.y + a.height).min(b.y + b.height).saturating_sub(a.y.max(b.y));
    u64::from(width) * u64::from(height)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rect(x: u32, y: u32, width: u32, height: u32) -> Rect {
        Rect { x, y, width, height }
    }

    #[test]
    fn rectangles_of_the_compositor_are_cut_to_the_picture() {
        assert_eq!(clip(-5, -5, 10, 10, (100, 50)), Some(rect(0, 0, 5, 5)));
        assert_eq!(clip(95, 45, 10, 10, (100, 50)), Some(rect(95, 45, 5, 5)));
        assert_eq!(clip(i32::MIN, 0, i32::MAX, 5, (100, 50)), None);
        assert_eq!(clip(i32::MIN, i32::MIN, i32::MAX, i32::MAX, (8192, 8192)), None);
        assert_eq!(clip(0, 0, i32::MAX, i32::MAX, (100, 50)), Some(rect(0, 0, 100, 50)));
        assert_eq!(clip(3, 3, 0, 4, (100, 50)), None);
        assert_eq!(clip(3, 3, -1, 4, (100, 50)), None);
        assert_eq!(clip(100, 3, 1, 4, (100, 50)), None);
    }

    #[test]
    fn neighbours_of_one_height_become_one_rectangle_and_distant_ones_stay_apart() {
        let mut damage = Damage::default();
        damage.add(rect(0, 0, 64, 64));
        damage.add(rect(64, 0, 64, 64));
        damage.add(rect(0, 64, 128, 10));
        assert_eq!(damage.rects(), [rect(0, 0, 128, 74)]);
        damage.add(rect(500, 500, 1, 1));
        assert_eq!(damage.rects().len(), 2);
        damage.add(rect(500, 500, 1, 1));
        assert_eq!(damage.rects().len(), 2);
    }

    #[test]
    fn whatever_is_added_stays_covered_by_a_bounded_number_of_rectangles_within_the_picture() {
        let (width, height) = (320_u32, 200_u32);
        let mut seed = 7_u64;
        let mut random = |below: u32| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((seed >> 33) as u32) % below
        };
        for _ in 0..50 {
            let mut damage = Damage::default();
            let mut covered = vec![false; (width * height) as usize];
            for _ in 0..200 {
                let (x, y) = (random(width), random(height));
                let added = rect(x, y, 1 + random((width - x).min(40)), 1 + random((height - y).min(40)));
                let (w, h) = (added.width.min(width - x), added.height.min(height - y));
                let added = rect(x, y, w, h);
                damage.add(added);
                for row in y..y + h {
                    covered[(row * width + x) as usize..(row * width + x + w) as usize].fill(true);
                }
                assert!(damage.rects().len() <= MAX_DAMAGE);
                assert!(damage.rects().iter().all(|r| r.x + r.width <= width && r.y + r.height <= height));
            }
            let inside = |x: u32, y: u32| {
                damage.rects().iter().any(|r| x >= r.x && x < r.x + r.width && y >= r.y && y < r.y + r.height)
            };
            for (at, _) in covered.iter().enumerate().filter(|(_, c)| **c) {
                assert!(inside(at as u32 % width, at as u32 / width));
            }
        }
    }
}
