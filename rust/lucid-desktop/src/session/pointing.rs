//! Finds the [pointer](crate::pointer)'s code in what an output shows, and takes it out.

use super::buffer::read_piece;
use super::{Session, TILE};
use crate::damage::clip_rect;
use crate::pointer::{self, Piece, Pointer};
use crate::{Error, Rect};

impl Session {
    /// Looks for the pointer's code, tells the sink about its shape, and returns where in the output it is.
    pub(super) fn find_pointer(
        &mut self,
        at: usize,
        damage: &[Rect],
        new: bool,
        y_invert: bool,
    ) -> Result<Option<Rect>, Error> {
        let Some(output) = self.outputs.get(at) else { return Ok(None) };
        let Some(buffer) = &output.buffer else { return Ok(None) };
        let size = (buffer.layout.width, buffer.layout.height);
        // The output may have become smaller.
        let before = output.pointer_place.and_then(|r| clip_rect(r, size));
        let wanted = self.shared.pointer();
        if self.monitors.is_some()
            && let Some(place) = wanted
            && within(place, output.origin, size).is_none()
        {
            let place = self.find_left_pointer(at, damage, y_invert, place, size)?;
            if let Some(output) = self.outputs.get_mut(at) {
                output.pointer_place = place;
            }
            return Ok(place);
        }
        let wanted = wanted.map(|place| within(place, output.origin, size).unwrap_or(place));
        let touched = new || before.is_none_or(|place| damage.iter().any(|r| r.overlaps(place)));
        if !touched {
            return Ok(before);
        }
        // Most likely it is where it was put. A picture may be older than that: then it is in what has changed, as
        // long as it is anywhere; a pointer that is hidden is not searched for in every frame.
        let near = wanted.and_then(|place| pointer::surroundings(place, size));
        let everywhere = new || before.is_some() || wanted.is_none();
        let searched = damage.iter().copied().filter(|_| everywhere);
        let mut found = None;
        for rect in near.into_iter().chain(before).chain(searched) {
            found = self.search_pointer(at, rect, y_invert)?;
            if found.is_some() {
                break;
            }
        }
        let others = self.outputs.iter().enumerate().filter(|(other, _)| *other != at);
        let elsewhere = others.filter_map(|(_, output)| output.pointer_place).next().is_some();
        let cut = wanted.filter(|place| pointer::is_cut(*place, size));
        let (told, place) = match (found, cut) {
            (Some((shape, place)), _) => (Some(Pointer::Shape(shape)), Some(place)),
            // At the edge it cannot be read, but is still there.
            (None, Some(place)) if matches!(self.pointer_told, Some(Pointer::Shape(_))) => {
                (self.pointer_told, pointer::surroundings(place, size))
            }
            // The picture is older than its way to this monitor, or it may be at another.
            (None, _) if self.monitors.is_some() && (elsewhere || wanted.is_none()) => {
                (self.pointer_told, None)
            }
            // Before anyone has pointed at anything there may be no pointer.
            (None, _) => {
                (self.pointer_told.or(wanted.map(|_| Pointer::Picture)).map(|_| Pointer::Picture), None)
            }
        };
        if let Some(output) = self.outputs.get_mut(at) {
            output.pointer_place = place;
        }
        if told != self.pointer_told {
            self.pointer_told = told;
            if let Some(pointer) = told {
                self.sink.pointer(pointer);
            }
        }
        Ok(place)
    }

    /// Looks for the code of a pointer that was put to a place of another monitor. Its picture may be older than that;
    /// and at the edge of two monitors a code is on both.
    fn find_left_pointer(
        &mut self,
        at: usize,
        damage: &[Rect],
        y_invert: bool,
        (x, y): (u32, u32),
        size: (u32, u32),
    ) -> Result<Option<Rect>, Error> {
        let Some(output) = self.outputs.get(at) else { return Ok(None) };
        let (origin, before) = (output.origin, output.pointer_place.and_then(|r| clip_rect(r, size)));
        let small = damage.iter().copied().filter(|r| r.width <= TILE && r.height <= TILE);
        for rect in before.into_iter().chain(small) {
            if let Some((_, place)) = self.search_pointer(at, rect, y_invert)? {
                return Ok(Some(place));
            }
        }
        let Some(Pointer::Shape(shape)) = self.pointer_told else { return Ok(None) };
        let beside = i32::try_from(x).ok().zip(i32::try_from(y).ok()).and_then(|(x, y)| {
            pointer::surroundings_beside(
                (x - i32::try_from(origin.0).ok()?, y - i32::try_from(origin.1).ok()?),
                size,
            )
        });
        for place in before.into_iter().chain(beside) {
            if self.shows_part(at, shape, place, y_invert)? {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    /// Looks for the pointer's code where it touches a rectangle of an output's buffer.
    fn search_pointer(
        &mut self,
        at: usize,
        rect: Rect,
        y_invert: bool,
    ) -> Result<Option<(pointer::Shape, Rect)>, Error> {
        let buffer = self.outputs.get(at).and_then(|output| output.buffer.as_ref());
        let Some(buffer) = buffer else { return Ok(None) };
        let size = (buffer.layout.width, buffer.layout.height);
        let Some(rect) = pointer::reach(rect, size) else { return Ok(None) };
        // A code must lie in one piece, so the pieces overlap.
        let step = TILE - pointer::MAX_CODE_SIDE;
        let mut y = rect.y;
        while y < rect.y + rect.height {
            let height = TILE.min(rect.y + rect.height - y);
            let place = Rect { y, height, ..rect };
            read_piece(buffer, place, y_invert, &mut self.band)?;
            if let Some((shape, found)) = (Piece { place, pixels: &self.band }).find()
                && !pointer::is_cut_by(found, place, size)
            {
                return Ok(clip_rect(found, size).map(|found| (shape, found)));
            }
            y += step;
        }
        Ok(None)
    }

    /// Whether a part of a shape's code is in a rectangle of an output's buffer.
    fn shows_part(
        &mut self,
        at: usize,
        shape: pointer::Shape,
        place: Rect,
        y_invert: bool,
    ) -> Result<bool, Error> {
        let buffer = self.outputs.get(at).and_then(|output| output.buffer.as_ref());
        let Some(buffer) = buffer else { return Ok(false) };
        read_piece(buffer, place, y_invert, &mut self.band)?;
        Ok((Piece { place, pixels: &self.band }).shows_part(shape))
    }
}

/// A place of the picture as one of the output with that origin and size, if it is in it.
fn within(place: (u32, u32), origin: (u32, u32), size: (u32, u32)) -> Option<(u32, u32)> {
    let (x, y) = (place.0.checked_sub(origin.0)?, place.1.checked_sub(origin.1)?);
    (x < size.0 && y < size.1).then_some((x, y))
}

/// Takes the pointer's code out of a row: what was there before is still there if its neighbours are, and otherwise it
/// most likely looks like them. (The client draws its pointer over that place.)
pub(super) fn erase(row: &mut [u8], before: &[u8], code: Rect, new: bool) {
    let (left, right) = (code.x as usize * 4, (code.x + code.width) as usize * 4);
    let pixel = |row: &[u8], at: usize| row.get(at..at + 4).and_then(|p| <[u8; 4]>::try_from(p).ok());
    let neighbours = [left.checked_sub(4), Some(right)].map(|at| at.and_then(|at| pixel(row, at)));
    let earlier = [left.checked_sub(4), Some(right)].map(|at| at.and_then(|at| pixel(before, at)));
    let Some(place) = row.get_mut(left..right) else { return };
    match neighbours.into_iter().flatten().next() {
        Some(neighbour) if new || neighbours != earlier => {
            place.as_chunks_mut().0.fill(neighbour);
        }
        _ => place.copy_from_slice(&before[left..right]),
    }
}
