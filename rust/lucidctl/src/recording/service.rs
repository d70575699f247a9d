//! What is asked of the recorder (lucid-sessiond) itself, through its socket: what it records now, and its index.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use lucid_ipc::session::recordings_client::RecordingsClient;
use lucid_ipc::session::{GetStatusRequest, ListRequest, RebuildIndexRequest, Recording, State};
use serde::Serialize;

use crate::report::{json, moment, pairs, plain, size, table};
use crate::{Error, print};

/// Where the recorder is.
#[derive(Args)]
pub(crate) struct Socket {
    /// The recorder's socket.
    #[arg(long, value_name = "PATH", default_value = "/run/lucid-sessiond/recorder.sock")]
    recorder: PathBuf,
}

/// `recording list --json`, of a recorder.
#[derive(Serialize)]
struct Listed {
    session: String,
    state: &'static str,
    user: String,
    began_ms: u64,
    ended_ms: Option<u64>,
    chunks: u32,
    bytes: u64,
    gaps: u32,
    problem: Option<String>,
}

impl From<Recording> for Listed {
    fn from(recording: Recording) -> Listed {
        let state = match recording.state() {
            State::Recording => "recording",
            State::Waiting => "waiting",
            State::Finished => "finished",
            State::Recovered => "recovered",
            State::Unusable => "unusable",
            State::Unspecified => "unknown",
        };
        Listed {
            session: recording.session,
            state,
            user: recording.user,
            began_ms: recording.start_ms,
            ended_ms: recording.end_ms,
            chunks: recording.chunks,
            bytes: recording.bytes,
            gaps: recording.gaps,
            problem: Some(recording.problem).filter(|problem| !problem.is_empty()),
        }
    }
}

/// `recording status --json`
#[derive(Serialize)]
struct Status {
    version: String,
    uptime_seconds: u64,
    device_key: String,
    owners: Vec<String>,
    observers: Vec<String>,
    recording: u32,
    waiting: u32,
    bytes: u64,
    most_bytes: Option<u64>,
    free_bytes: u64,
    keep_free: u64,
    problems: Vec<String>,
}

/// Asks, on a thread of its own kind.
fn ask<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| Error::Write("to the kernel".into(), e))?.block_on(answer)
}

/// All recordings that it has.
pub(super) fn list(socket: &Socket, as_json: bool) -> Result<(), Error> {
    let listed = ask(async {
        let mut client = RecordingsClient::new(lucid_ipc::connect(&socket.recorder).await?);
        let mut answer = client.list(ListRequest {}).await?.into_inner();
        let mut listed = Vec::new();
        while let Some(recording) = answer.message().await? {
            listed.push(Listed::from(recording));
        }
        Ok(listed)
    })?;
    print(&if as_json { json(&listed) } else { lines(&listed) })
}

fn lines(listed: &[Listed]) -> String {
    if listed.is_empty() {
        return "No recordings.\n".into();
    }
    let header = ["BEGAN", "ENDED", "STATE", "USER", "CHUNKS", "SIZE", "GAPS", "SESSION"];
    let mut rows = vec![header.map(str::to_owned)];
    let mut problems = String::new();
    for one in listed {
        if let Some(problem) = &one.problem {
            let _ = writeln!(problems, "{}: {}", plain(&one.session), plain(problem));
        }
        rows.push([
            moment(one.began_ms),
            one.ended_ms.map_or_else(|| "-".to_owned(), moment),
            one.state.to_owned(),
            plain(&one.user),
            one.chunks.to_string(),
            size(one.bytes),
            one.gaps.to_string(),
            plain(&one.session),
        ]);
    }
    let mut out = table(&rows);
    if !problems.is_empty() {
        out.push('\n');
        out.push_str(&problems);
    }
    out
}

/// How it is.
pub(super) fn status(socket: &Socket, as_json: bool) -> Result<(), Error> {
    let status = ask(async {
        let mut client = RecordingsClient::new(lucid_ipc::connect(&socket.recorder).await?);
        Ok(client.get_status(GetStatusRequest {}).await?.into_inner())
    })?;
    let status = Status {
        version: status.version,
        uptime_seconds: status.uptime_seconds,
        device_key: status.device_key,
        owners: status.owners,
        observers: status.observers,
        recording: status.recording,
        waiting: status.waiting,
        bytes: status.bytes,
        most_bytes: Some(status.most_bytes).filter(|most| *most > 0),
        free_bytes: status.free_bytes,
        keep_free: status.keep_free,
        problems: status.problems,
    };
    print(&if as_json { json(&status) } else { text(&status) })
}

fn text(status: &Status) -> String {
    let mut out = String::new();
    let most = status.most_bytes.map(|most| format!(" of at most {}", size(most))).unwrap_or_default();
    let mut rows = vec![
        ("Recorder", plain(&status.version)),
        ("Recording", format!("{} now, {} waiting to be resumed", status.recording, status.waiting)),
        ("Recordings", format!("{}{most}", size(status.bytes))),
        ("Disk", format!("{} free, of which {} stay free", size(status.free_bytes), size(status.keep_free))),
        ("Device", plain(&status.device_key)),
    ];
    rows.extend(status.owners.iter().map(|key| ("Owner", plain(key))));
    rows.extend(status.observers.iter().map(|key| ("Observer", plain(key))));
    rows.extend(status.problems.iter().map(|problem| ("Problem", plain(problem))));
    pairs(&mut out, &rows);
    out
}

/// Has it make its index again from the files.
pub(super) fn rebuild_index(socket: &Socket, as_json: bool) -> Result<(), Error> {
    #[derive(Serialize)]
    struct Rebuilt {
        recordings: u64,
    }
    let recordings = ask(async {
        let mut client = RecordingsClient::new(lucid_ipc::connect(&socket.recorder).await?);
        Ok(client.rebuild_index(RebuildIndexRequest {}).await?.into_inner().recordings)
    })?;
    print(&if as_json {
        json(&Rebuilt { recordings })
    } else {
        format!("The index was made again from the files; it names {recordings} finished recordings.\n")
    })
}
