//! What other programs may know: `status.json` (version 1) in the run directory.
//!
//! ```json
//! {"version":1,"port":3389,"certificate_sha256":"AA:BB:…","ready":true,"video_encoder":"OpenH264 in software (…)",
//!  "sessions_recorded":true,"sessions":0}
//! ```

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde::Serialize;

use crate::Error;

#[derive(Serialize)]
struct Status<'a> {
    version: u32,
    port: u16,
    certificate_sha256: &'a str,
    ready: bool,
    /// For people; see `lucid_video::Encoders::description`.
    video_encoder: &'a str,
    /// Each session is, and none begins or goes on that is not.
    sessions_recorded: bool,
    /// How many sessions have a client now; lucid-updated restarts the machine when nobody is connected.
    sessions: usize,
}

/// What of it stays as it is for as long as this program runs.
pub(crate) struct About {
    /// The run directory.
    pub(crate) run: PathBuf,
    pub(crate) port: u16,
    pub(crate) fingerprint: String,
    pub(crate) sessions_recorded: bool,
}

impl About {
    /// Writes the status file, whole or not at all. Whoever is on this machine may read it.
    pub(crate) fn write(&self, video_encoder: &str, sessions: usize) -> Result<(), Error> {
        let path = self.run.join("status.json");
        let failed = |source| Error::File { doing: "writing", path: path.clone(), source };
        let status = Status {
            version: 1,
            port: self.port,
            certificate_sha256: &self.fingerprint,
            ready: true,
            video_encoder,
            sessions_recorded: self.sessions_recorded,
            sessions,
        };
        let text = serde_json::to_vec(&status).map_err(|e| failed(e.into()))?;
        let temporary = self.run.join("status.json.new");
        std::fs::create_dir_all(&self.run)
            .and_then(|()| std::fs::File::create(&temporary))
            .and_then(|mut f| {
                // Whatever the umask is.
                f.set_permissions(std::fs::Permissions::from_mode(0o644))?;
                f.write_all(&text)
            })
            .and_then(|()| std::fs::rename(&temporary, &path))
            .map_err(failed)
    }
}

/// Seconds since the kernel started, as the console counts them.
pub(crate) fn uptime() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of an uptime fit a double")]
    let seconds = now.tv_sec as f64 + now.tv_nsec as f64 / 1e9;
    seconds
}
