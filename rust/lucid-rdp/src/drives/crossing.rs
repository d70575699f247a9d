//! What crosses of the client's files while programs have them open, for the recording.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use lucid_ipc::session::to_recorder::Item;
use lucid_ipc::session::{Actor, Direction, Outcome};
use tokio::time::Instant;

use crate::audit::{self, Crossing, Log};

/// Between two events of programs that want what the same rule forbids.
const REFUSALS: Duration = Duration::from_secs(10);

/// An open file.
struct Open {
    /// Drive and path.
    path: String,
    read: Crossing,
    /// Where the client says that it ends.
    end: Option<u64>,
    written: Crossing,
    /// It was made, or emptied, by who has it open.
    fresh: bool,
}

/// The files that are open, by the kernel's handle.
pub(super) struct Files {
    log: Log,
    open: RefCell<HashMap<u64, Open>>,
    /// When that was told last, by the rule; or `hidden`.
    refused: RefCell<HashMap<&'static str, Instant>>,
}

impl Files {
    pub(super) fn new(log: Log) -> Files {
        Files { log, open: RefCell::default(), refused: RefCell::default() }
    }

    #[cfg(test)]
    pub(super) fn log(&self) -> &Log {
        &self.log
    }

    /// A program has opened a file, or made it. There are no more than the table of open files has room for.
    pub(super) fn opened(&self, handle: u64, path: &str, fresh: bool) {
        if self.log.is_on() {
            let (read, written) = <(Crossing, Crossing)>::default();
            let open = Open { path: path.to_owned(), read, end: None, written, fresh };
            self.open.borrow_mut().insert(handle, open);
        }
    }

    /// It has got what it asked for, or less at the end.
    pub(super) fn read(&self, handle: u64, offset: u64, wanted: u32, data: &[u8]) {
        if let Some(open) = self.open.borrow_mut().get_mut(&handle) {
            open.read.piece(offset, data);
            if data.len() < wanted as usize {
                open.end = Some(offset.saturating_add(data.len() as u64));
            }
        }
    }

    /// Whether the file's size would tell if all of it was read.
    pub(super) fn wants_size(&self, handle: u64) -> bool {
        let open = self.open.borrow();
        let open = open.get(&handle).filter(|open| open.end.is_none() && open.read.bytes() > 0);
        open.is_some_and(|open| open.read.so_far().is_some())
    }

    /// The file has this size.
    pub(super) fn ends(&self, handle: u64, size: u64) {
        if let Some(open) = self.open.borrow_mut().get_mut(&handle) {
            open.end = Some(size);
        }
    }

    /// It has written.
    pub(super) fn written(&self, handle: u64, offset: u64, data: &[u8]) {
        if let Some(open) = self.open.borrow_mut().get_mut(&handle) {
            open.written.piece(offset, data);
        }
    }

    /// The file has another size now: emptied, it begins anew for whoever has it open.
    pub(super) fn sized(&self, path: &str, size: u64) {
        for open in self.open.borrow_mut().values_mut().filter(|open| open.path == path) {
            open.fresh = size == 0;
            open.written.begin_anew();
        }
    }

    /// It has closed the file. Returns when that is in the recording's queue.
    pub(super) async fn closed(&self, handle: u64) {
        let open = self.open.borrow_mut().remove(&handle);
        for event in open.into_iter().flat_map(|open| open.events(Outcome::Allowed)) {
            self.log.tell(event).await;
        }
    }

    /// Nobody closes any more what is open.
    pub(super) fn end(&self) {
        for (_, open) in self.open.borrow_mut().drain() {
            open.events(Outcome::Failed).for_each(|event| self.log.note(event));
        }
    }

    /// A program wanted what the policy does not allow.
    pub(super) fn refused(&self, rule: &'static str, what: &str) {
        if self.is_news(rule) {
            self.log.note(audit::violation(Actor::Device, rule, what.to_owned()));
        } else {
            self.log.refused(1);
        }
    }

    /// A program looked for something of the client's that it may not see. That breaks no rule: it finds nothing.
    pub(super) fn hidden(&self, path: &str) {
        if self.is_news("hidden") {
            let path = path.to_owned();
            self.log.note(audit::file(Outcome::Refused, "drive", Direction::ToDesktop, path, 0, None));
        }
    }

    /// Whether it is a while since the same was told.
    fn is_news(&self, rule: &'static str) -> bool {
        let now = Instant::now();
        let mut refused = self.refused.borrow_mut();
        let news = refused.get(rule).is_none_or(|last| now - *last >= REFUSALS);
        if news {
            refused.insert(rule, now);
        }
        news
    }
}

impl Open {
    fn events(self, outcome: Outcome) -> impl Iterator<Item = Item> {
        let Open { path, read, end, written, fresh } = self;
        let file = move |direction, crossing: &Crossing, hash| {
            audit::file(outcome, "drive", direction, path.clone(), crossing.bytes(), hash)
        };
        let was_read = read.bytes() > 0;
        let was_written = fresh || written.bytes() > 0;
        let read = was_read.then(|| file(Direction::ToDesktop, &read, end.and_then(|end| read.hash(end))));
        let written =
            was_written.then(|| file(Direction::ToClient, &written, written.so_far().filter(|_| fresh)));
        read.into_iter().chain(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::To;
    use crate::recording::State;
    use lucid_ipc::session::event::Data;
    use lucid_ipc::session::{Event, File};
    use tokio::sync::{mpsc, watch};

    #[tokio::test(start_paused = true)]
    async fn a_file_is_told_when_it_is_closed_with_the_hash_of_what_crossed_whole_and_in_order() {
        let ((items, mut told), (_state, state)) = (mpsc::channel(8), watch::channel(State::On(0)));
        let log = Log::default();
        let files = Files::new(log.clone());
        // Nobody wants it.
        files.opened(1, "home/a", false);
        log.set(Some(To { items, state }));
        files.closed(1).await;
        let mut files_told = || {
            let mut all = Vec::new();
            while let Ok(Item::Event(Event { data: Some(Data::File(file)), outcome, .. })) = told.try_recv() {
                let File { name, bytes, hash, direction } = file;
                all.push((name, bytes, hash.to_vec(), direction == Direction::ToClient as i32, outcome));
            }
            all
        };
        assert!(files_told().is_empty());
        let hash = |data: &[u8]| blake3::hash(data).as_bytes().to_vec();
        let (allowed, failed) = (Outcome::Allowed as i32, Outcome::Failed as i32);

        files.opened(2, "home/a", false);
        files.read(2, 0, 4, b"abcd");
        files.read(2, 4, 4, b"ef");
        files.closed(2).await;
        // Read to a part; only looked at.
        files.opened(3, "home/b", false);
        files.read(3, 0, 4, b"abcd");
        files.closed(3).await;
        files.opened(4, "home/b", false);
        files.closed(4).await;
        let expected = [
            ("home/a".to_owned(), 6, hash(b"abcdef"), false, allowed),
            ("home/b".to_owned(), 4, Vec::new(), false, allowed),
        ];
        assert_eq!(files_told(), expected);

        // Made; emptied; changed in the middle; made and left empty.
        files.opened(5, "home/c", true);
        files.written(5, 0, b"ab");
        files.written(5, 2, b"c");
        files.closed(5).await;
        files.opened(6, "home/d", false);
        files.sized("home/d", 0);
        files.written(6, 0, b"x");
        files.closed(6).await;
        files.opened(7, "home/d", false);
        files.written(7, 0, b"y");
        files.closed(7).await;
        files.opened(8, "home/e", true);
        files.end();
        let expected = [
            ("home/c".to_owned(), 3, hash(b"abc"), true, allowed),
            ("home/d".to_owned(), 1, hash(b"x"), true, allowed),
            ("home/d".to_owned(), 1, Vec::new(), true, allowed),
        ];
        assert_eq!(files_told(), expected);
        log.flush().await;
        assert_eq!(files_told(), [("home/e".to_owned(), 0, hash(b""), true, failed)]);

        // Who tries without end is told of now and then.
        for _ in 0..1000 {
            files.refused("file.download_enabled", "x");
        }
        tokio::time::advance(REFUSALS).await;
        files.refused("file.download_enabled", "x");
        log.flush().await;
        assert!(told.try_recv().is_ok() && told.try_recv().is_ok() && told.try_recv().is_err());
    }
}
