//! From the desktop to the client: the list of what a program has copied, and pieces of these files as they are asked
//! for. What was listed stays what can be had, until the client asks for a list again.

use ironrdp_cliprdr::pdu::{FileContentsFlags, FileContentsRequest};
use lucid_desktop::files::{Answer, Entry, MAX_DATA, Request, check};

use super::{Launcher, Trouble};

/// The most that is given at once, in bytes. Clients take fewer bytes than they asked for as the end of the file, so
/// that those which ask for more are refused.
const MOST: u32 = 16 << 20;

/// A list that the client has.
pub(crate) struct Served {
    launcher: Launcher,
    entries: Vec<Entry>,
}

/// Makes the list of what `places` names (a program's URI list), at most `limit` bytes of files.
pub(crate) async fn list(mut launcher: Launcher, places: &[u8], limit: u64) -> Result<Served, Trouble> {
    let (Answer::Listed { entries, left_out }, _) = launcher.call(&Request::List, places).await? else {
        return Err(Trouble::Lost("the desktop's files: another answer was expected".into()));
    };
    if left_out > 0 {
        tracing::warn!(left_out, "symbolic links and devices among copied files are left out");
    }
    let bytes = check(&entries)?;
    if bytes > limit {
        return Err(Trouble::Refused(format!(
            "{bytes} bytes of files are larger than the clipboard's limit of {limit}"
        )));
    }
    Ok(Served { launcher, entries })
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
        Ok(data)
    }
}
