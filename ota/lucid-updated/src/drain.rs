//! Before a restart the people who are connected are told of it, and their sessions end in order.
//!
//! The RDP host does both, as when `lucidctl` ends a session with a message. Nothing of it is on the disk: where the power is cut
//! meanwhile, what the machine does by itself begins again at the next start, and what somebody asked for is forgotten.

use std::{collections::BTreeSet, path::Path, time::Duration};

use lucid_ipc::{
    connect,
    rdp::{EndSessionRequest, GetStatusRequest, SessionState, rdp_client::RdpClient},
    tonic::{Code, Status},
};
use tokio::time::{Instant, sleep, timeout};

/// So long people have where the machine restarts by itself,
pub const NOTICE: Duration = Duration::from_secs(60);
/// and where somebody asked for it now.
pub const NOTICE_ASKED: Duration = Duration::from_secs(10);
/// After their time sessions have so long to end: what was recorded is brought to the disk then.
pub const GRACE: Duration = Duration::from_secs(20);
/// The RDP host has so long to answer once.
const ANSWER: Duration = Duration::from_secs(5);
/// And it is asked so often.
const GLANCE: Duration = Duration::from_secs(1);

/// How that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Drained {
    /// No session is open, after so many had been.
    All(usize),
    /// The RDP host does not run: nobody is connected.
    NotRunning,
    /// It took too long: why, for people.
    Not(String),
}

/// What one look found.
enum Found {
    /// So many sessions are open.
    Open(usize),
    /// Nobody listens on the socket.
    NotRunning,
}

/// Tells everybody who is connected that the machine restarts, into what, and ends all sessions after this time. Ends when none
/// is left, and `grace` after that time at the latest, and what the RDP host takes to answer.
pub async fn drain(socket: &Path, into: &str, time: Duration, grace: Duration) -> Drained {
    let end = Instant::now() + time;
    let message = format!("This device restarts into version {into}. Save your work.");
    let mut told = BTreeSet::new();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let why = match timeout(ANSWER, look(socket, &message, left, &mut told)).await {
            Ok(Ok(Found::Open(0))) => return Drained::All(told.len()),
            Ok(Ok(Found::NotRunning)) => return Drained::NotRunning,
            Ok(Ok(Found::Open(count))) => format!("{count} sessions have not ended"),
            Ok(Err(why)) => format!("the RDP host was asked through {} to end them: {why}", socket.display()),
            Err(_) => format!(
                "the RDP host was asked through {} to end them, and does not answer within {} s",
                socket.display(),
                ANSWER.as_secs()
            ),
        };
        if Instant::now() >= end + grace {
            return Drained::Not(why);
        }
        sleep(GLANCE).await;
    }
}

/// Looks which sessions there are, and tells those that were not told yet.
async fn look(
    socket: &Path,
    message: &str,
    left: Duration,
    told: &mut BTreeSet<u32>,
) -> Result<Found, String> {
    let channel = match connect(socket).await {
        Ok(channel) => channel,
        Err(lucid_ipc::Error::NotRunning { .. }) => return Ok(Found::NotRunning),
        Err(error) => return Err(error.to_string()),
    };
    let mut host = RdpClient::new(channel);
    let words = |status: Status| status.message().to_owned();
    let sessions = host.get_status(GetStatusRequest {}).await.map_err(words)?.into_inner().sessions;
    for session in &sessions {
        if told.contains(&session.id) {
            continue;
        }
        // Where nobody looks there is nobody who could be told.
        let left = if session.state() == SessionState::Parked { Duration::ZERO } else { left };
        let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        let request = EndSessionRequest {
            id: session.id,
            message: message.to_owned(),
            delay_seconds: u32::try_from(seconds).unwrap_or(u32::MAX),
        };
        match host.end_session(request).await {
            Ok(_) => {}
            // It has ended meanwhile.
            Err(status) if status.code() == Code::NotFound => {}
            Err(status) => return Err(words(status)),
        }
        told.insert(session.id);
    }
    Ok(Found::Open(sessions.len()))
}
