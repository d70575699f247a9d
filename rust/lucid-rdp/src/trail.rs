//! Where the client's pointer is and how it looks, for the recording ([`lucid_session::pointer`]): the client draws its
//! pointer by itself, so no picture shows it.
//!
//! What happens within a tenth of a second becomes one record, with at most 60 places a second: of those within a
//! sixtieth the last one counts, so none is lost at which the pointer rests.

use std::rc::Rc;
use std::time::{Duration, Instant};

use lucid_session::MAX_EDGE;
use lucid_session::pointer::{Change, Entry, MAX_RECORD, Shape};

/// How long things are gathered.
const GATHER: Duration = Duration::from_millis(100);
/// Between two places.
const PACE: Duration = Duration::from_micros(1_000_000 / 60);
/// A record with so many bytes waits for no more.
const ENOUGH: usize = MAX_RECORD / 8;

/// A pointer as the client draws it; pixels are red, green, blue, alpha.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Drawn {
    pub(crate) side: u16,
    pub(crate) hotspot: (u16, u16),
    pub(crate) rgba: Vec<u8>,
}

enum Kept {
    Moved(u16, u16),
    /// None: it is not drawn.
    Looks(Option<Rc<Drawn>>),
}

/// What a client's pointer has done.
pub(crate) struct Trail {
    began: Instant,
    place: Option<(u16, u16)>,
    looks: Option<Option<Rc<Drawn>>>,
    gathered: Vec<(Instant, Kept)>,
    bytes: usize,
}

impl Trail {
    pub(crate) fn new(now: Instant) -> Trail {
        Trail { began: now, place: None, looks: None, gathered: Vec::new(), bytes: 0 }
    }

    /// The client has put it there; `size` is the desktop's.
    pub(crate) fn moved_to(&mut self, (x, y): (u32, u32), size: (u32, u32), now: Instant) {
        let within = |at: u32, size: u32| {
            u16::try_from(at.min(size.saturating_sub(1))).unwrap_or(MAX_EDGE).min(MAX_EDGE - 1)
        };
        let place = (within(x, size.0), within(y, size.1));
        if self.place.replace(place) == Some(place) {
            return;
        }
        let slot = |at: Instant| (at - self.began).as_nanos() / PACE.as_nanos();
        if let Some((at, Kept::Moved(x, y))) = self.gathered.last_mut()
            && slot(*at) == slot(now)
        {
            (*at, *x, *y) = (now, place.0, place.1);
        } else {
            self.gathered.push((now, Kept::Moved(place.0, place.1)));
        }
    }

    /// The client has moved it by so much, from wherever it was.
    pub(crate) fn moved_by(&mut self, (dx, dy): (i32, i32), size: (u32, u32), now: Instant) {
        let from = self.place.unwrap_or_default();
        let by = |at: u16, d: i32| u32::try_from(i32::from(at).saturating_add(d)).unwrap_or(0);
        self.moved_to((by(from.0, dx), by(from.1, dy)), size, now);
    }

    /// The client was told to draw it so, or not at all.
    pub(crate) fn looks(&mut self, drawn: Option<Drawn>, now: Instant) {
        let drawn = drawn.map(Rc::new);
        self.bytes += 16 + drawn.as_ref().map_or(0, |drawn| drawn.rgba.len());
        self.looks = Some(drawn.clone());
        self.gathered.push((now, Kept::Looks(drawn)));
    }

    /// When what is gathered becomes a record.
    pub(crate) fn due(&self) -> Option<Instant> {
        let (first, _) = self.gathered.first()?;
        Some(if self.bytes < ENOUGH { *first + GATHER } else { *first })
    }

    /// What is gathered, as a record.
    pub(crate) fn record(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.bytes = 0;
        let mut record = Vec::new();
        for (at, kept) in self.gathered.drain(..) {
            let before = now.saturating_duration_since(at).as_millis();
            kept.write(u16::try_from(before).unwrap_or(u16::MAX), &mut record);
        }
        (!record.is_empty()).then_some(record)
    }

    /// What holds, as a record, which is the first one after a key of the video.
    pub(crate) fn state(&self) -> Option<Vec<u8>> {
        let mut record = Vec::new();
        if let Some(looks) = &self.looks {
            Kept::Looks(looks.clone()).write(0, &mut record);
        }
        if let Some((x, y)) = self.place {
            Kept::Moved(x, y).write(0, &mut record);
        }
        (!record.is_empty()).then_some(record)
    }
}

impl Kept {
    fn write(&self, ms_before: u16, into: &mut Vec<u8>) {
        let change = match self {
            Kept::Moved(x, y) => Change::Moved(*x, *y),
            Kept::Looks(None) => Change::Hidden,
            Kept::Looks(Some(drawn)) => Change::Shape(Shape {
                width: drawn.side,
                height: drawn.side,
                hotspot: drawn.hotspot,
                rgba: &drawn.rgba,
            }),
        };
        Entry { ms_before, change }.write(into);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lucid_session::pointer::entries;

    const SIZE: (u32, u32) = (1280, 720);

    fn changes(record: &[u8]) -> Vec<(u16, Change<'_>)> {
        entries(record).map(|entry| entry.unwrap()).map(|entry| (entry.ms_before, entry.change)).collect()
    }

    #[test]
    fn a_thousand_movements_a_second_become_sixty_places_and_the_last_one_is_among_them() {
        let began = Instant::now();
        let mut trail = Trail::new(began);
        let (mut places, mut records, mut last) = (0, 0, None);
        for ms in 0..1000_u32 {
            let now = began + Duration::from_millis(ms.into());
            if trail.due().is_some_and(|due| due <= now) {
                let record = trail.record(now).unwrap();
                assert!(trail.due().is_none() && trail.record(now).is_none());
                let changes = changes(&record);
                assert!(changes.iter().all(|(before, _)| *before <= 100));
                places += changes.len();
                last = changes.last().map(|(_, change)| format!("{change:?}"));
                records += 1;
            }
            trail.moved_to((ms, ms / 2), SIZE, now);
        }
        let record = trail.record(began + Duration::from_secs(1)).unwrap();
        places += changes(&record).len();
        assert!(last.is_some() && (9..=11).contains(&records), "{records}");
        // A slot that a record cuts counts twice.
        assert!((60..=60 + records).contains(&places), "{places}");
        assert_eq!(changes(&record).last().unwrap().1, Change::Moved(999, 499));
    }

    #[test]
    fn the_record_after_a_key_says_how_it_looks_and_where_it_is() {
        let now = Instant::now();
        let mut trail = Trail::new(now);
        assert_eq!(trail.state(), None);
        let drawn = Drawn { side: 2, hotspot: (1, 0), rgba: (0..16).collect() };
        trail.looks(Some(drawn.clone()), now);
        trail.moved_to((9000, 9000), SIZE, now);
        trail.moved_by((-10, 40), SIZE, now);
        trail.record(now);
        let shape = Shape { width: 2, height: 2, hotspot: (1, 0), rgba: &drawn.rgba };
        let state = trail.state().unwrap();
        assert_eq!(changes(&state), [(0, Change::Shape(shape)), (0, Change::Moved(1269, 719))]);
        trail.looks(None, now);
        let state = trail.state().unwrap();
        assert_eq!(changes(&state)[0].1, Change::Hidden);
        // A place outside of any desktop is none.
        trail.moved_to((u32::MAX, 0), (u32::MAX, u32::MAX), now);
        assert_eq!(changes(&trail.state().unwrap())[1].1, Change::Moved(MAX_EDGE - 1, 0));
    }

    #[test]
    fn shapes_that_change_without_end_make_records_and_not_memory() {
        let now = Instant::now();
        let mut trail = Trail::new(now);
        let drawn = Drawn { side: 32, hotspot: (0, 0), rgba: vec![7; 32 * 32 * 4] };
        for _ in 0..10_000 {
            trail.looks(Some(drawn.clone()), now);
            if trail.due().is_some_and(|due| due <= now) {
                assert!(trail.record(now).unwrap().len() < 2 * ENOUGH);
            }
        }
        assert!(trail.bytes <= ENOUGH);
    }
}
