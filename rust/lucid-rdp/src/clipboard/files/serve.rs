//! From the desktop to the client: the list of what a program has copied, and pieces of these files as they are asked
//! for. What was listed stays what can be had, until the client asks for a list again.

use std::collections::BTreeMap;

use ironrdp_cliprdr::pdu::{FileContentsFlags, FileContentsRequest};
use lucid_desktop::files::{Answer, Entry, MAX_DATA, Request, check};
use lucid_ipc::session::{Direction, Outcome};

use super::{Launcher, Trouble, permitted};
use crate::audit::{self, Crossing, Log};
use crate::gates::Holding;

/// The most that is given at once, in bytes. Clients take fewer bytes than they asked for as the end of the file, so
/// that those which ask for more are refused.
const MOST: u32 = 16 << 20;

/// A list that the client has.
pub(crate) struct Served {
    launcher: Launcher,
    entries: Vec<Entry>,
    log: Log,
    /// What is crossing, by its place in the list.
    crossing: BTreeMap<u32, Crossing>,
}

/// Makes the list of what `places` names (a program's URI list), as far as all of it may pass.
pub(crate) async fn list(
    mut launcher: Launcher,
    places: &[u8],
    holding: &Holding,
    log: Log,
) -> Result<Served, Trouble> {
    let (Answer::Listed { entries, left_out }, _) = launcher.call(&Request::List, places).await? else {
        return Err(Trouble::Lost("the desktop's files: another answer was expected".into()));
    };
    if left_out > 0 {
        tracing::warn!(left_out, "symbolic links and devices among copied files are left out");
    }
    let bytes = check(&entries)?;
    permitted(Direction::ToClient, &entries, bytes, holding, &log)?;
    Ok(Served { launcher, entries, log, crossing: BTreeMap::new() })
}

impl Served {
    /// The files and folders.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Answers one wish.
    pub(crate) async fn contents(&mut self, wish: &FileContentsRequest) -> Result<Vec<u8>, Trouble> {
        let index = u32::try_from(wish.index).map_err(|_| "there is no such file")?;
        let entry = self.entries.get(index as usize).ok_or("there is no such file")?;
        if wish.flags.contains(FileContentsFlags::SIZE) {
            return Ok(entry.size.to_le_bytes().to_vec());
        }
        let left = entry.size.saturating_sub(wish.position).min(u64::from(wish.requested_size));
        let length = u32::try_from(left).ok().filter(|length| *length <= MOST);
        let length = length.ok_or("the client asked for too much at once")? as usize;
        let mut data = Vec::new();
        while data.len() < length {
            let piece = (length - data.len()).min(MAX_DATA);
            let offset = wish.position + data.len() as u64;
            let request = Request::Read { index, offset, length: piece as u32 };
            match self.launcher.call(&request, &[]).await? {
                (Answer::Data, read) if !read.is_empty() && read.len() <= piece => data.extend(read),
                (Answer::Data, _) => return Err("a copied file has become shorter".into()),
                _ => return Err(Trouble::Lost("the desktop's files: another answer was expected".into())),
            }
        }
        self.crossed(index, wish.position, &data);
        Ok(data)
    }

    /// A file is told of when all of it has crossed; asked for again, it crosses again.
    fn crossed(&mut self, index: u32, offset: u64, data: &[u8]) {
        let Some(entry) = self.entries.get(index as usize).filter(|_| self.log.is_on()) else { return };
        let crossing = self.crossing.entry(index).or_default();
        crossing.piece(offset, data);
        if let Some(hash) = crossing.hash(entry.size) {
            let (outcome, path) = (Outcome::Allowed, entry.path.clone());
            let way = Direction::ToClient;
            self.log.note(audit::file(outcome, "clipboard", way, path, crossing.bytes(), Some(hash)));
            self.crossing.remove(&index);
        }
    }
}

impl Drop for Served {
    /// What is still crossing will not come to its end, or came in another order.
    fn drop(&mut self) {
        for (index, crossing) in std::mem::take(&mut self.crossing) {
            let Some(entry) = self.entries.get(index as usize) else { continue };
            let whole = crossing.bytes() >= entry.size;
            let outcome = if whole { Outcome::Allowed } else { Outcome::Failed };
            let (way, path) = (Direction::ToClient, entry.path.clone());
            self.log.note(audit::file(outcome, "clipboard", way, path, crossing.bytes(), None));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::To;
    use crate::recording::State;
    use lucid_ipc::session::Event;
    use lucid_ipc::session::event::Data;
    use lucid_ipc::session::to_recorder::Item;
    use tokio::net::UnixStream;
    use tokio::sync::{mpsc, watch};

    #[tokio::test]
    async fn a_file_is_told_when_all_of_it_has_crossed_and_one_that_has_not_when_its_list_goes() {
        let ((items, mut from), (_state, state)) = (mpsc::channel(16), watch::channel(State::On(0)));
        let log = Log::default();
        log.set(Some(To { items, state }));
        let sizes = [("a", 6), ("b", 6), ("c", 0), ("d", 6)];
        let entry = |(path, size): (&str, u64)| Entry { path: path.into(), size, folder: false, modified: 0 };
        let (socket, _other) = UnixStream::pair().unwrap();
        let mut served = Served {
            launcher: Launcher(socket),
            entries: sizes.into_iter().map(entry).collect(),
            log: log.clone(),
            crossing: BTreeMap::new(),
        };
        // Whole, and once more; in another order; empty; a part; one that is not in the list.
        for (index, offset, data) in [
            (0, 0, &b"abc"[..]),
            (0, 3, b"def"),
            (0, 0, b"abcdef"),
            (1, 3, b"def"),
            (1, 0, b"abc"),
            (2, 0, b""),
            (3, 0, b"ab"),
            (4, 0, b"ab"),
        ] {
            served.crossed(index, offset, data);
        }
        drop(served);
        log.flush().await;
        let mut told = Vec::new();
        while let Ok(Item::Event(event)) = from.try_recv() {
            let outcome = event.outcome();
            let Event { data: Some(Data::File(file)), .. } = event else { panic!("{event:?}") };
            assert_eq!(file.direction(), Direction::ToClient);
            told.push((file.name, file.bytes, file.hash.to_vec(), outcome));
        }
        let hash = |data: &[u8]| blake3::hash(data).as_bytes().to_vec();
        let (allowed, failed) = (Outcome::Allowed, Outcome::Failed);
        let expected = [
            ("a".to_owned(), 6, hash(b"abcdef"), allowed),
            ("a".to_owned(), 6, hash(b"abcdef"), allowed),
            ("c".to_owned(), 0, hash(b""), allowed),
            ("b".to_owned(), 6, Vec::new(), allowed),
            ("d".to_owned(), 2, Vec::new(), failed),
        ];
        assert_eq!(told, expected);
    }
}
