//! A record of a test: whether the recorder can record now, found out by doing it.
//!
//! It goes the way of every recording: room, the same disk, sealed to the same keys, signed by the device, synced. Then it is
//! read again and verified as far as that goes without the owner's key, and removed. Nobody lists it: its folder has no
//! session's name. What a recorder left that died meanwhile, the next test removes.

use std::{fs, io, os::unix::fs::DirBuilderExt as _, path::Path};

use lucid_audit::{Chain, Data, Entry as Event, Word};
use lucid_ipc::session::{TestPart, TestResponse};
use lucid_recording::{Hash, SessionId, Start, Verdict, Writer, statement::Audit, system_random, verify};
use lucid_session::{AUDIT, SOUND};

use crate::{
    clock::Clock,
    error::{At as _, Error, Result},
    payload,
    session::{RECORDER, Settings},
    sessions::Sessions,
};

/// Its folder, among the recordings.
const DIR: &str = "test";
/// So much is written: more than a file system keeps beside its own notes.
const BYTES: usize = 64 << 10;
/// The most bytes of what is said.
const MAX_WHY: usize = 1000;

/// Where it failed, and why.
struct Failed(TestPart, String);

/// Makes such a record, and says how far it came.
pub(crate) fn record(sessions: &Sessions) -> TestResponse {
    let Failed(part, mut why) = match tried(sessions) {
        Ok(()) => Failed(TestPart::Unspecified, String::new()),
        Err(failed) => {
            tracing::error!("a test record: {}", failed.1);
            failed
        }
    };
    why.truncate(why.floor_char_boundary(MAX_WHY));
    TestResponse { failed: part.into(), why }
}

fn tried(sessions: &Sessions) -> Result<(), Failed> {
    let settings = &sessions.settings;
    let dir = settings.recordings.join(DIR);
    let at = |part| move |error: Error| Failed(part, error.to_string());
    sessions.check_room().map_err(|error| match error {
        Error::NoRoom(_) => at(TestPart::Room)(error),
        other => at(TestPart::Writing)(other),
    })?;
    removed(&dir).map_err(at(TestPart::Removal))?;
    let tested =
        written(settings, &dir).map_err(at(TestPart::Writing)).and_then(|id| proved(settings, &dir, id));
    let cleared = removed(&dir).map_err(at(TestPart::Removal));
    tested.and(cleared)
}

/// Writes it, as a session that has one event and one sound.
fn written(settings: &Settings, dir: &Path) -> Result<SessionId> {
    fs::DirBuilder::new().mode(0o700).create(dir).at("making", dir)?;
    let mut bytes = [0; 16];
    let mut random = system_random();
    random.fill_bytes(&mut bytes);
    let id = SessionId::new(uuid::Builder::from_random_bytes(bytes).into_uuid().into_bytes())?;
    let time = Clock::new(std::sync::Arc::clone(&settings.wall)).now();
    let start = Start {
        session: id,
        participants: Vec::new(),
        policy: blake3::hash(b"").into(),
        consent: None,
        snapshot: None,
        codec: payload::codec(1, 1, "none, a test"),
        streams: payload::streams(),
        recorder: RECORDER.to_owned(),
    };
    let device = settings.device.clone();
    let mut writer = Writer::create(dir, start, time, &settings.recipients, device, settings.limits, random)?;
    let mut chain = Chain::new(id);
    let end = Event::of_device(Data::End { reason: Word::shortened("it was a test") });
    let mut line = chain.append(time, end)?.bytes;
    line.push(b'\n');
    // What cannot be made smaller.
    let mut noise = vec![0; BYTES];
    blake3::Hasher::new().update(&bytes).finalize_xof().fill(&mut noise);
    writer.append(SOUND.number, time, false, &noise)?;
    writer.append(AUDIT.number, time, false, &line)?;
    let last: Option<Hash> = chain.last();
    writer.commit(time, last)?;
    writer.finish(time, last.map(|hash| Audit { count: chain.count(), hash }))?;
    Ok(id)
}

/// Reads it again.
fn proved(settings: &Settings, dir: &Path, id: SessionId) -> Result<(), Failed> {
    let options = verify::Options { owner: None, device: Some(settings.device.public()) };
    let report = verify(&dir.join(id.to_string()), options, &mut |_| {})
        .map_err(|error| Failed(TestPart::Proof, error.to_string()))?;
    if report.verdict == Verdict::Sound {
        return Ok(());
    }
    let findings = report.findings.iter().map(|finding| format!("{}: {}", finding.file, finding.problem));
    let findings: Vec<_> = findings.take(3).collect();
    let verdict = report.verdict;
    Err(Failed(TestPart::Proof, format!("what is read again is {verdict:?}: {}", findings.join("; "))))
}

/// Removes what there is of it; durable when this is done.
fn removed(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        done => done.at("removing", dir)?,
    }
    let Some(parent) = dir.parent() else { return Ok(()) };
    fs::File::open(parent).and_then(|parent| parent.sync_all()).at("writing", parent)
}
