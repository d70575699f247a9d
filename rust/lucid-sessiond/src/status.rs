//! What other programs of the device may know without asking: `status.json` (version 1) in the run directory, written at
//! the start.
//!
//! ```json
//! {"version":1,"ready":true,"device_key":"6ee091…","problem":null}
//! ```
//!
//! `ready` is false when the recorder could not start; `problem` then says why, for people. Where it is ready, a problem
//! is what would keep a session from beginning now. `device_key` is its Ed25519 public key, where it got so far.

use std::{fs, io::Write as _, path::Path};

use serde::Serialize;

use crate::error::{At as _, Error, Result};

#[derive(Serialize)]
struct Status {
    version: u32,
    ready: bool,
    device_key: Option<String>,
    problem: Option<String>,
}

/// Says that the recorder takes sessions, and what would keep one from beginning now.
pub(crate) fn ready(run: &Path, device_key: String, problem: Option<&Error>) -> Result<()> {
    let problem = problem.map(Error::to_string);
    write(run, &Status { version: 1, ready: true, device_key: Some(device_key), problem })
}

/// Says that the recorder could not start, and why.
///
/// # Errors
/// When that cannot be written either.
pub fn failed(run: &Path, why: &Error) -> Result<()> {
    write(run, &Status { version: 1, ready: false, device_key: None, problem: Some(why.to_string()) })
}

/// Writes the file, whole or not at all.
fn write(run: &Path, status: &Status) -> Result<()> {
    let path = run.join("status.json");
    let new = run.join("status.json.new");
    let text = serde_json::to_vec(status).map_err(|error| Error::File {
        doing: "writing",
        path: path.clone(),
        source: error.into(),
    })?;
    fs::create_dir_all(run)
        .and_then(|()| fs::File::create(&new))
        .and_then(|mut file| file.write_all(&text))
        .and_then(|()| fs::rename(&new, &path))
        .at("writing", &path)
}
