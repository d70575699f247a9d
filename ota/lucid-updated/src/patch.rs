//! A patch from what runs to what is written, where the source has one that is smaller than the chunks.
//!
//! Nothing of it is believed: what comes out of it is a chunk of the index or nothing, and what it takes is bounded by its
//! format. One that cannot be used is done without.

use std::collections::HashMap;

use lucid_release_format::{Change, Hash, Patch, Piece, Place, patch::START};

use crate::{
    error::{Error, Result},
    source::{Failed, Source},
};

/// A patch that a source offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Its file, as the source has it.
    pub file: String,
    /// How many bytes it has.
    pub bytes: u64,
}

/// A patch in use.
#[derive(Debug)]
pub struct Patched {
    file: String,
    change: Change,
    patch: Patch,
    /// Which frame a chunk has.
    numbers: HashMap<Hash, usize>,
    /// That of the section that was needed last.
    prefix: Option<(usize, Vec<u8>)>,
}

/// Whether a patch is done without because of an error. Where the source is gone as a whole, the archive is not had either, and
/// that says so.
#[must_use]
pub fn is_of_patch(error: &Error) -> bool {
    matches!(error, Error::Patch { .. } | Error::Source(_))
}

/// Whether an error may be one of a moment: what is left is asked for once more then.
#[must_use]
pub fn may_pass(error: &Error) -> bool {
    let Error::Source(failed) = error else { return false };
    matches!(failed, Failed::Broken { .. } | Failed::Slow { .. } | Failed::Short { .. })
}

impl Patched {
    /// Fetches the head of a patch, and sees whether it is one for this change.
    ///
    /// # Errors
    /// When it is not had, or is not one for that.
    pub async fn open(offered: &Offered, change: Change, source: &dyn Source) -> Result<Self> {
        let Offered { file, bytes } = offered;
        let wrong = |error: lucid_release_format::Error| refused(file, &error);
        if *bytes <= START as u64 {
            return Err(Error::Patch { name: file.clone(), why: format!("it would have {bytes} bytes") });
        }
        let mut head = fetch(file, 0, START as u64, source).await?;
        let length = Patch::head_bytes(&head).map_err(wrong)?;
        if length as u64 > *bytes {
            let why = format!("its head would have {length} bytes, of {bytes} in all");
            return Err(Error::Patch { name: file.clone(), why });
        }
        head.extend_from_slice(&fetch(file, START as u64, length as u64, source).await?);
        let patch = Patch::read(&head, &change, *bytes).map_err(wrong)?;
        let numbers = change.added().iter().enumerate().map(|(number, chunk)| (chunk.hash, number)).collect();
        Ok(Self { file: file.clone(), change, patch, numbers, prefix: None })
    }

    /// Its file, as the source has it.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The frame of a chunk, and where in the patch that is.
    #[must_use]
    pub fn frame(&self, hash: &Hash) -> Option<(usize, Place)> {
        let number = *self.numbers.get(hash)?;
        Some((number, *self.patch.frames().get(number)?))
    }

    /// The chunk that a frame makes. `get` gives what is on the slots.
    ///
    /// # Errors
    /// When what it stands on is not there, or it makes anything else.
    pub fn chunk(
        &mut self,
        frame: usize,
        stored: &[u8],
        get: &mut dyn FnMut(Piece) -> Option<Vec<u8>>,
    ) -> Result<Vec<u8>> {
        let lost =
            || Error::Patch { name: self.file.clone(), why: "what it starts from is not there".to_owned() };
        let number = self.patch.section_of(frame);
        let (Some(section), Some(place), Some(chunk)) = (
            self.patch.sections().get(number),
            self.patch.frames().get(frame),
            self.change.added().get(frame),
        ) else {
            return Err(lost());
        };
        let prefix = match self.prefix.take().filter(|(of, _)| *of == number) {
            Some((_, prefix)) => prefix,
            None => section.prefix(&self.change, |piece| get(piece).ok_or_else(lost))?,
        };
        let opened = chunk.open_at(*place, &prefix, stored).map_err(|error| refused(&self.file, &error));
        self.prefix = Some((number, prefix));
        opened
    }
}

fn refused(file: &str, error: &lucid_release_format::Error) -> Error {
    Error::Patch { name: file.to_owned(), why: error.to_string() }
}

async fn fetch(file: &str, from: u64, to: u64, source: &dyn Source) -> Result<Vec<u8>> {
    match fetch_once(file, from, to, source).await {
        Err(error) if may_pass(&error) => {
            tracing::warn!("{error}; it is asked for once more");
            fetch_once(file, from, to, source).await
        }
        fetched => fetched,
    }
}

async fn fetch_once(file: &str, from: u64, to: u64, source: &dyn Source) -> Result<Vec<u8>> {
    let mut stretch = source.range(file, from, to).await?;
    let bytes = stretch.take(usize::try_from(to - from).unwrap_or(usize::MAX)).await?;
    stretch.end().await?;
    Ok(bytes.to_vec())
}
