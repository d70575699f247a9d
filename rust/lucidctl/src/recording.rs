//! `lucidctl recording`: what can be done with the files of a recording alone, without any service; and what the recorder
//! says of those that it has ([`service`]).

mod export;
mod picture;
mod play;
mod policy;
mod report;
mod service;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Subcommand;
use lucid_recording::keys::Keys;
use lucid_recording::verify::Options;
use lucid_recording::{
    MAX_PROOF, OwnerSecret, Proof, PublicKey, Reader, Recipient, Role, Summary, Verdict, chunk, prove,
    rewrap, system_random, verify,
};

use crate::report::json;
use crate::{Error, print};

/// From then on what takes long shows how far it is.
const QUIET: Duration = Duration::from_secs(2);
/// How often it says so.
const SHOWN: Duration = Duration::from_millis(200);

/// Recordings: what they are, whether they are whole and unchanged, what was shown, and who can open them. All of it works
/// on the files alone, but for what says that it asks the recorder.
#[derive(Subcommand)]
pub(crate) enum Recording {
    /// Makes an owner's key: recordings are sealed to its public half, and opened with its secret one.
    NewKey {
        /// The file for the secret half, which must not be there yet.
        file: PathBuf,
    },
    /// Shows what a recording says it is.
    ///
    /// Whether that is so, `verify` finds out.
    Show {
        /// The recording's directory.
        directory: PathBuf,
        /// The file with the secret key of a recipient: counts the records of each stream.
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
    /// Lists the recordings in a directory, or those that the recorder has.
    List {
        /// The directory that holds the recordings' directories. The recorder is asked, if it is not given.
        directory: Option<PathBuf>,
        #[command(flatten)]
        socket: service::Socket,
    },
    /// Shows the recorder: what it records now, how much room there is, and with which key it signs.
    Status {
        #[command(flatten)]
        socket: service::Socket,
    },
    /// Has the recorder make its index of recordings again from their files.
    RebuildIndex {
        #[command(flatten)]
        socket: service::Socket,
    },
    /// Says what a session was allowed to do, who accepted that, and who changed it meanwhile.
    ///
    /// No key is needed for that. Exit status: 0 all of it holds, 1 something does not, 6 it cannot be read.
    Policy {
        /// The recording's directory.
        directory: PathBuf,
        /// The device's public key, known from elsewhere.
        #[arg(long, value_name = "HEX")]
        device: Option<PublicKey>,
    },
    /// Says what of a recording is proved, what is missing, and what is wrong.
    ///
    /// No key is needed for that; with one, every record is opened as well. Exit status: 0 all is proved, 1 something is
    /// wrong or missing, 6 it cannot be read.
    Verify {
        /// The recording's directory.
        directory: PathBuf,
        /// The file with the secret key of a recipient: opens every record.
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
        /// The public key of the device that is to have signed, as 64 hexadecimal digits, known from elsewhere.
        #[arg(long, value_name = "HEX")]
        device: Option<PublicKey>,
    },
    /// Prints a proof that a chunk was recorded, which can be checked without the rest of the recording.
    Prove {
        /// The recording's directory.
        directory: PathBuf,
        /// The chunk's number, as in the name of its file.
        #[arg(long, value_name = "NUMBER")]
        chunk: u32,
    },
    /// Checks such a proof.
    ///
    /// Exit status: 0 it holds, 1 it does not, 6 it cannot be read.
    CheckProof {
        /// The proof's file.
        proof: PathBuf,
        /// The chunk's file.
        chunk: PathBuf,
        /// The public key of the device that is to have signed, as 64 hexadecimal digits, known from elsewhere. Without
        /// it, the one that the opening.json beside the chunk names.
        #[arg(long, value_name = "HEX")]
        device: Option<PublicKey>,
    },
    /// Writes what was shown as a film that any player plays, with its events as text.
    ///
    /// The recording is verified first, and it is said whether all of it is proved. Exit status: 0 written, and all is
    /// proved; 1 written, and something is missing or wrong, or nothing was written.
    Export(export::Arguments),
    /// Writes what was shown at a moment as a picture.
    ///
    /// The part of the recording that it is in has to be as it was signed. Whether all of it is there, `verify` says.
    Picture(picture::Arguments),
    /// Shows a recording in a browser on this machine: the pictures, its events beside them, and whether it is proved.
    ///
    /// Prints the address of a page that is there until Ctrl-C. Only programs of this machine that know the address can
    /// open it.
    Play(play::Arguments),
    /// Seals a recording's keys to others, for instance after a change of the owner's key.
    ///
    /// Who is not named loses access to these files, but not to copies that were made before. The recording itself is not
    /// touched.
    Rewrap {
        /// The recording's directory.
        directory: PathBuf,
        /// The file with the secret key of somebody who can open it now.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Public keys of its owners, as 64 hexadecimal digits each.
        #[arg(long, value_name = "HEX", required = true, num_args = 1..)]
        to: Vec<PublicKey>,
        /// Public keys of those who may watch it.
        #[arg(long, value_name = "HEX", num_args = 1..)]
        to_observer: Vec<PublicKey>,
        /// Public keys for the case that the owner's is lost.
        #[arg(long, value_name = "HEX", num_args = 1..)]
        to_recovery: Vec<PublicKey>,
    },
}

/// Does it; says whether all is proved, of what proves something.
pub(crate) fn run(command: &Recording, as_json: bool) -> Result<bool, Error> {
    match command {
        Recording::NewKey { file } => {
            let public = match OwnerSecret::create(file, &mut system_random()) {
                Ok(secret) => secret.public()?,
                Err(lucid_recording::Error::Io { source, .. })
                    if source.kind() == ErrorKind::AlreadyExists =>
                {
                    return Err(Error::KeyExists(file.clone()));
                }
                Err(error) => return Err(error.into()),
            };
            let key = report::Key { file: file.display().to_string(), public };
            print(&if as_json { json(&key) } else { report::key(&key) })?;
        }
        Recording::Show { directory, key } => {
            must_hold_one(directory)?;
            let shown = show(directory, key.as_deref())?;
            print(&if as_json { json(&shown) } else { report::shown(&shown) })?;
        }
        Recording::List { directory: None, socket } => service::list(socket, as_json)?,
        Recording::Status { socket } => service::status(socket, as_json)?,
        Recording::RebuildIndex { socket } => service::rebuild_index(socket, as_json)?,
        Recording::List { directory: Some(directory), .. } => {
            let listed = list(directory)?;
            print(&if as_json { json(&listed) } else { report::listed(&listed) })?;
        }
        Recording::Policy { directory, device } => {
            must_hold_one(directory)?;
            return policy::run(directory, *device, as_json);
        }
        Recording::Verify { directory, key, device } => {
            let owner = key.as_deref().map(OwnerSecret::read).transpose()?;
            must_be_readable(directory)?;
            let options = Options { owner: owner.as_ref(), device: *device };
            let mut bar = Bar::new();
            let verified =
                verify(directory, options, &mut |progress| bar.show(|| report::progress(progress)))?;
            bar.clear();
            print(&if as_json { json(&verified) } else { report::verified(&verified) })?;
            return Ok(verified.verdict == Verdict::Sound);
        }
        Recording::Prove { directory, chunk } => {
            must_hold_one(directory)?;
            let mut out = std::io::stdout().lock();
            out.write_all(&prove(directory, *chunk)?.to_bytes()?)
                .and_then(|()| out.flush())
                .map_err(|e| Error::Write("standard output".into(), e))?;
        }
        Recording::CheckProof { proof, chunk, device } => {
            let known = match device {
                Some(device) => *device,
                None => device_beside(chunk)?,
            };
            let proved = Proof::from_bytes(&read(proof, MAX_PROOF)?)?.check(chunk, &known)?;
            let proved = report::ProofHolds { proved, device: known, device_given: device.is_some() };
            print(&if as_json { json(&proved) } else { report::proof_holds(&proved) })?;
        }
        Recording::Export(arguments) => return export::run(arguments, as_json),
        Recording::Picture(arguments) => picture::run(arguments, as_json)?,
        Recording::Play(arguments) => play::run(arguments, as_json)?,
        Recording::Rewrap { directory, key, to, to_observer, to_recovery } => {
            let old = OwnerSecret::read(key)?;
            must_hold_one(directory)?;
            let role = |keys: &[PublicKey], role| {
                keys.iter().map(move |key| Recipient { key: *key, role }).collect::<Vec<_>>()
            };
            let recipients =
                [role(to, Role::Owner), role(to_observer, Role::Observer), role(to_recovery, Role::Recovery)]
                    .concat();
            rewrap(directory, &old, &recipients, &mut system_random())?;
            let kept = old.public()?;
            let rewrapped = report::Rewrapped {
                old_key_opens: recipients.iter().any(|recipient| recipient.key == kept),
                recipients: recipients
                    .iter()
                    .map(|recipient| report::Opens { key: recipient.key, role: recipient.role })
                    .collect(),
            };
            print(&if as_json { json(&rewrapped) } else { report::rewrapped(&rewrapped) })?;
        }
    }
    Ok(true)
}

fn show(directory: &Path, key: Option<&Path>) -> Result<report::Shown, Error> {
    let secret = key.map(OwnerSecret::read).transpose()?;
    let summary = Summary::read(directory, None)?;
    let keys = Keys::read(directory)?;
    let counts = match secret {
        Some(secret) => Some(count(directory, &secret)?),
        None => None,
    };
    Ok(report::Shown::new(directory, &summary, &keys, counts.as_ref()))
}

/// Records and bytes of each stream.
fn count(directory: &Path, secret: &OwnerSecret) -> Result<BTreeMap<u8, report::Count>, Error> {
    let reader = Reader::open(directory, secret, None)?;
    let mut counts: BTreeMap<u8, report::Count> = BTreeMap::new();
    for entry in reader.chunks() {
        let mut records = reader.chunk(entry.index)?;
        while let Some(record) = records.next()? {
            let count = counts.entry(record.stream).or_default();
            count.records += 1;
            count.bytes += record.payload.len() as u64;
        }
    }
    Ok(counts)
}

/// One of the files that only a recording has.
fn is_of_a_recording(name: &str) -> bool {
    matches!(name, "opening.json" | "heads.jsonl" | "manifest.json") || chunk::index_of(name).is_some()
}

fn names(directory: &Path) -> Result<Vec<String>, Error> {
    let failed = |e| Error::Read(directory.to_owned(), e);
    fs::read_dir(directory)
        .map_err(failed)?
        .map(|entry| Ok(entry.map_err(failed)?.file_name().to_string_lossy().into_owned()))
        .collect()
}

fn must_hold_one(directory: &Path) -> Result<Vec<String>, Error> {
    let mut names = names(directory)?;
    names.retain(|name| is_of_a_recording(name) || name == "keys.json");
    if names.iter().any(|name| is_of_a_recording(name)) {
        return Ok(names);
    }
    Err(Error::NoRecording(directory.to_owned()))
}

/// What cannot be read is not thereby wrong, and has an exit status of its own.
fn must_be_readable(directory: &Path) -> Result<(), Error> {
    for name in must_hold_one(directory)? {
        let path = directory.join(name);
        match path.metadata() {
            // What is there and is no file, verification names.
            Ok(about) if about.is_file() => File::open(&path).map(drop).map_err(|e| Error::Read(path, e))?,
            _ => {}
        }
    }
    Ok(())
}

fn list(directory: &Path) -> Result<Vec<report::Listed>, Error> {
    let mut listed = Vec::new();
    for name in names(directory)? {
        let path = directory.join(&name);
        if !path.is_dir() {
            continue;
        }
        match must_hold_one(&path) {
            Ok(_) => {}
            Err(Error::NoRecording(_)) => continue,
            Err(error) => {
                listed.push(report::Listed::unreadable(&path, error.to_string()));
                continue;
            }
        }
        listed.push(match Summary::read(&path, None) {
            Ok(summary) => report::Listed::new(&path, &summary),
            Err(error) => report::Listed::unreadable(&path, error.to_string()),
        });
    }
    listed.sort_by(|a, b| (a.began_ms, &a.directory).cmp(&(b.began_ms, &b.directory)));
    Ok(listed)
}

/// A whole file that has no more than so many bytes; what has more, its reader refuses.
fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
        .map_err(|e| Error::Read(path.to_owned(), e))?;
    Ok(bytes)
}

/// A proof does not say by whom it is signed.
fn device_beside(chunk: &Path) -> Result<PublicKey, Error> {
    let beside = match chunk.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !beside.join("opening.json").exists() {
        return Err(Error::NoDevice);
    }
    Ok(Summary::read(beside, None)?.opening.device)
}

/// How far something is, on a terminal, when it takes long.
struct Bar {
    wanted: bool,
    began: Instant,
    shown: Option<Instant>,
}

impl Bar {
    fn new() -> Self {
        Self { wanted: std::io::stderr().is_terminal(), began: Instant::now(), shown: None }
    }

    fn show(&mut self, text: impl FnOnce() -> String) {
        let due = self.shown.map_or(self.began + QUIET, |shown| shown + SHOWN);
        if self.wanted && Instant::now() >= due {
            self.shown = Some(Instant::now());
            // Whoever does not see it misses nothing.
            let _ = write!(std::io::stderr(), "\r\x1b[K{}", text());
        }
    }

    fn clear(&self) {
        if self.shown.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests;
