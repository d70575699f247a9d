//! A record of a test: whether the recorder can record now, found out by doing it.
//!
//! It goes the way of every recording: room, the same disk, sealed to the same keys, signed by the device, synced. Then it is
//! read again and verified as far as that goes without the owner's key, and removed. Nobody lists it: its folder has no
//! session's name. What a recorder left that died meanwhile, the next test removes.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use lucid_audit::{Chain, Data, Entry as Event, Word};
use lucid_ipc::{
    session::{TestPart, TestResponse},
    tonic::Status,
};
use lucid_recording::{Hash, SessionId, Start, Verdict, Writer, statement::Audit, system_random, verify};
use lucid_session::{AUDIT, SOUND};

use tokio::{sync::watch, time::timeout};

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

/// Who asks is answered within this time, which is shorter than he waits. The test goes on, and he asks again.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a test came to that nobody waited for is told to whoever asks within this time.
const FRESH: Duration = Duration::from_secs(60);

/// How a test ended, and when.
type Ended = (Instant, TestResponse);

/// Records of tests, one at a time: a disk that hangs has one thread, and no second one; and on a disk that is slow a test comes
/// to its end, whoever has stopped waiting for it.
#[derive(Clone)]
pub(crate) struct Tests {
    /// The one that is being made, or whose end nobody has been told.
    last: Arc<Mutex<Option<watch::Receiver<Option<Ended>>>>>,
    patience: Duration,
    fresh: Duration,
}

impl Default for Tests {
    fn default() -> Self {
        Self { last: Arc::default(), patience: PATIENCE, fresh: FRESH }
    }
}

impl Tests {
    /// Waits for the test that is being made, or has one made by `record`.
    pub(crate) async fn ask(
        &self,
        record: impl FnOnce() -> TestResponse + Send + 'static,
    ) -> Result<TestResponse, Status> {
        let mut test = self.joined(record);
        let ending = async { test.wait_for(Option::is_some).await.is_ok() };
        if timeout(self.patience, ending).await.is_err() {
            return Err(Status::resource_exhausted(
                "a test record has not come to its end, and goes on; where it never does, the disk hangs: look at the \
                 kernel's log",
            ));
        }
        let ended = test.borrow().clone();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_some_and(|last| last.same_channel(&test)) {
            *last = None;
        }
        ended.map(|(_, answer)| answer).ok_or_else(|| Status::internal("a thread of the recorder died"))
    }

    fn joined(
        &self,
        record: impl FnOnce() -> TestResponse + Send + 'static,
    ) -> watch::Receiver<Option<Ended>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(test) = &*last {
            // A thread that died tells nobody.
            let lives = test.has_changed().is_ok();
            let joins = test.borrow().as_ref().map_or(lives, |(at, _)| at.elapsed() < self.fresh);
            if joins {
                return test.clone();
            }
        }
        let (end, test) = watch::channel(None);
        *last = Some(test.clone());
        drop(tokio::task::spawn_blocking(move || {
            let answer = record();
            drop(end.send_replace(Some((Instant::now(), answer))));
        }));
        test
    }
}

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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A test that ends when it is told to, and says this.
    fn slow(why: &str) -> (mpsc::Sender<()>, impl FnOnce() -> TestResponse + Send + use<>) {
        let (end, ends) = mpsc::channel();
        let answer = TestResponse { failed: 0, why: why.to_owned() };
        let record = move || match ends.recv() {
            Ok(()) | Err(_) => answer,
        };
        (end, record)
    }

    fn never() -> TestResponse {
        panic!("a second one is made")
    }

    fn at_once(why: &str) -> impl FnOnce() -> TestResponse + Send + use<> {
        let (end, record) = slow(why);
        drop(end);
        record
    }

    #[tokio::test]
    async fn a_slow_test_is_not_begun_anew_and_whoever_asks_again_hears_of_it() {
        let impatient = Tests { patience: Duration::ZERO, ..Tests::default() };
        let patient = Tests { patience: Duration::from_secs(60), ..impatient.clone() };
        let (end, record) = slow("the first");
        assert_eq!(
            impatient.ask(record).await.unwrap_err().code(),
            lucid_ipc::tonic::Code::ResourceExhausted
        );
        assert!(impatient.ask(never).await.unwrap_err().message().contains("goes on"));
        end.send(()).unwrap();
        assert_eq!(patient.ask(never).await.unwrap().why, "the first");
        // Whose end was told is over.
        assert_eq!(patient.ask(at_once("the second")).await.unwrap().why, "the second");
        assert_eq!(patient.ask(at_once("the third")).await.unwrap().why, "the third");
    }

    #[tokio::test]
    async fn what_a_test_came_to_long_ago_is_not_told_and_one_whose_thread_died_holds_nobody_up() {
        let tests = Tests { patience: Duration::from_secs(60), ..Tests::default() };
        let (end, record) = slow("long ago");
        let mut old = tests.joined(record);
        end.send(()).unwrap();
        old.wait_for(Option::is_some).await.unwrap();
        let later = Tests { fresh: Duration::ZERO, ..tests.clone() };
        assert_eq!(later.ask(at_once("now")).await.unwrap().why, "now");
        assert!(tests.ask(never).await.unwrap_err().message().contains("died"));
        assert_eq!(tests.ask(at_once("again")).await.unwrap().why, "again");
    }
}
