//! What is printed: text for people, JSON for programs.
//!
//! The JSON fields below are stable: some may be added, none is renamed, removed or given another meaning. Times are
//! whole seconds, sizes pixels; what does not apply is `null`.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use lucid_ipc::rdp;
use lucid_ipc::rdp::anomaly::About;
use serde::Serialize;

/// `lucidctl status --json`
#[derive(Serialize)]
pub(crate) struct Host {
    version: String,
    uptime_seconds: u64,
    port: u32,
    certificate_sha256: String,
    max_sessions: u32,
    pub(crate) sessions: Vec<Session>,
    video_encoder: String,
    sessions_recorded: bool,
    anomalies: Vec<Anomaly>,
}

/// Something that was out of the ordinary: a mark in `status` (all there are) and `sessions show` (the session's).
#[derive(Serialize)]
pub(crate) struct Anomaly {
    /// `failed-logins`, `connection-burst`, `clipboard-burst`, `resize-burst` or `violation-burst`.
    kind: &'static str,
    /// Where it came from: an address, or a network of IPv6 with `/64`. Of these four, one says what it is about.
    address: Option<String>,
    user: Option<String>,
    /// Somebody said to be users that there are not.
    unknown_users: bool,
    session: Option<u32>,
    /// How often, from the first time to the last.
    times: u64,
    /// How long ago that was.
    first_seconds: u64,
    last_seconds: u64,
}

/// `lucidctl sessions show --json`; `sessions list --json` is an array of these.
#[derive(Serialize)]
pub(crate) struct Session {
    id: u32,
    user: String,
    /// `starting`, `connected` or `parked`.
    state: &'static str,
    client_address: Option<String>,
    width: u32,
    height: u32,
    codec: Option<String>,
    age_seconds: u64,
    state_seconds: u64,
    idle_seconds: u64,
    pictures: u64,
    bytes: u64,
    ends_in_seconds: Option<u64>,
    anomalies: Vec<Anomaly>,
}

/// `lucidctl rdp fingerprint --json`
#[derive(Serialize)]
pub(crate) struct Fingerprint {
    pub(crate) certificate_sha256: String,
}

impl From<rdp::Status> for Host {
    fn from(status: rdp::Status) -> Host {
        Host {
            version: status.version,
            uptime_seconds: status.uptime_seconds,
            port: status.port,
            certificate_sha256: status.certificate_sha256,
            max_sessions: status.max_sessions,
            sessions: status.sessions.into_iter().map(Session::from).collect(),
            video_encoder: status.video_encoder,
            sessions_recorded: status.sessions_recorded,
            anomalies: status.anomalies.into_iter().map(Anomaly::from).collect(),
        }
    }
}

impl From<rdp::Session> for Session {
    fn from(session: rdp::Session) -> Session {
        let state = match session.state() {
            rdp::SessionState::Unspecified => "unknown",
            rdp::SessionState::Starting => "starting",
            rdp::SessionState::Connected => "connected",
            rdp::SessionState::Parked => "parked",
        };
        Session {
            id: session.id,
            user: session.user,
            state,
            client_address: session.client_address,
            width: session.width,
            height: session.height,
            codec: session.codec,
            age_seconds: session.age_seconds,
            state_seconds: session.state_seconds,
            idle_seconds: session.idle_seconds,
            pictures: session.pictures,
            bytes: session.bytes,
            ends_in_seconds: session.ends_in_seconds,
            anomalies: session.anomalies.into_iter().map(Anomaly::from).collect(),
        }
    }
}

impl From<rdp::Anomaly> for Anomaly {
    fn from(anomaly: rdp::Anomaly) -> Anomaly {
        let kind = match anomaly.kind() {
            rdp::AnomalyKind::Unspecified => "unknown",
            rdp::AnomalyKind::FailedLogins => "failed-logins",
            rdp::AnomalyKind::ConnectionBurst => "connection-burst",
            rdp::AnomalyKind::ClipboardBurst => "clipboard-burst",
            rdp::AnomalyKind::ResizeBurst => "resize-burst",
            rdp::AnomalyKind::ViolationBurst => "violation-burst",
        };
        let (mut address, mut user, mut unknown_users, mut session) = (None, None, false, None);
        match anomaly.about {
            Some(About::Address(of)) => address = Some(of),
            Some(About::User(of)) => user = Some(of),
            Some(About::UnknownUsers(of)) => unknown_users = of,
            Some(About::Session(of)) => session = Some(of),
            None => {}
        }
        Anomaly {
            kind,
            address,
            user,
            unknown_users,
            session,
            times: anomaly.times,
            first_seconds: anomaly.first_seconds,
            last_seconds: anomaly.last_seconds,
        }
    }
}

/// One line of JSON.
pub(crate) fn json(value: &impl Serialize) -> String {
    match serde_json::to_string(value) {
        Ok(text) => text + "\n",
        // Structs of numbers and texts cannot fail; if they do, no output is better than half of it.
        Err(_) => String::new(),
    }
}

/// `lucidctl status`
pub(crate) fn host(host: &Host) -> String {
    let mut out = String::new();
    let connected = host.sessions.iter().filter(|s| s.state == "connected").count();
    let rows = [
        ("RDP host", format!("lucid-rdp {}, up {}", host.version, span(host.uptime_seconds))),
        ("Port", host.port.to_string()),
        ("Fingerprint", host.certificate_sha256.clone()),
        ("Video", plain(&host.video_encoder)),
        (
            "Recording",
            if host.sessions_recorded { "every session" } else { "no: it has no recorder" }.to_owned(),
        ),
        ("Sessions", format!("{} of {}, {connected} with a client", host.sessions.len(), host.max_sessions)),
        (
            "Anomalies",
            if host.anomalies.is_empty() { "none".into() } else { host.anomalies.len().to_string() },
        ),
    ];
    pairs(&mut out, &rows);
    if !host.sessions.is_empty() {
        out.push('\n');
        out.push_str(&sessions(&host.sessions));
    }
    if !host.anomalies.is_empty() {
        out.push('\n');
        out.push_str(&anomalies(&host.anomalies));
    }
    out
}

/// Marks, below each other.
fn anomalies(anomalies: &[Anomaly]) -> String {
    let header = ["ANOMALY", "OF", "TIMES", "FIRST", "LAST"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(header)
        .chain(anomalies.iter().map(|anomaly| {
            let of = match anomaly {
                Anomaly { address: Some(address), .. } => plain(address),
                Anomaly { user: Some(user), .. } => format!("user {}", plain(user)),
                Anomaly { session: Some(session), .. } => format!("session {session}"),
                Anomaly { unknown_users: true, .. } => "unknown users".into(),
                _ => "-".into(),
            };
            [
                anomaly.kind.to_owned(),
                of,
                anomaly.times.to_string(),
                format!("{} ago", span(anomaly.first_seconds)),
                format!("{} ago", span(anomaly.last_seconds)),
            ]
        }))
        .collect();
    table(&rows)
}

/// `lucidctl sessions list`
pub(crate) fn sessions(sessions: &[Session]) -> String {
    if sessions.is_empty() {
        return "No sessions.\n".into();
    }
    let header = ["ID", "USER", "STATE", "SINCE", "CLIENT", "SIZE", "CODEC", "AGE"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(header)
        .chain(sessions.iter().map(|s| {
            [
                s.id.to_string(),
                plain(&s.user),
                s.state.to_owned(),
                span(s.state_seconds),
                s.client_address.clone().unwrap_or_else(|| "-".into()),
                format!("{}x{}", s.width, s.height),
                s.codec.clone().unwrap_or_else(|| "-".into()),
                span(s.age_seconds),
            ]
        }))
        .collect();
    table(&rows)
}

/// `lucidctl sessions show`
pub(crate) fn session(session: &Session) -> String {
    let mut out = String::new();
    let rows = [
        ("Session", session.id.to_string()),
        ("User", plain(&session.user)),
        ("State", format!("{} for {}", session.state, span(session.state_seconds))),
        ("Client", session.client_address.clone().unwrap_or_else(|| "-".into())),
        ("Desktop", format!("{}x{}", session.width, session.height)),
        ("Codec", session.codec.clone().unwrap_or_else(|| "-".into())),
        ("Age", span(session.age_seconds)),
        ("Last input", format!("{} ago", span(session.idle_seconds))),
        ("Sent", format!("{} pictures, {}", session.pictures, size(session.bytes))),
        ("Ends", session.ends_in_seconds.map_or_else(|| "by its user".into(), |s| format!("in {}", span(s)))),
    ];
    pairs(&mut out, &rows);
    if !session.anomalies.is_empty() {
        out.push('\n');
        out.push_str(&anomalies(&session.anomalies));
    }
    out
}

/// `lucidctl sessions end`
pub(crate) fn ended(id: u32, delay: Duration) -> String {
    if delay.is_zero() {
        format!("Session {id} ends now.\n")
    } else {
        format!("Session {id} ends in {}.\n", span(delay.as_secs()))
    }
}

/// Columns as wide as they need to be.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    });
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Names and what they are, below each other.
pub(crate) fn pairs(out: &mut String, rows: &[(&str, String)]) {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    for (name, value) in rows {
        let _ = writeln!(out, "{name:<width$}  {value}");
    }
}

/// The two largest units of a time.
pub(crate) fn span(seconds: u64) -> String {
    let (days, hours, minutes, rest) =
        (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest} s"),
        (0, 0, _) => format!("{minutes} min {rest} s"),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// In UTC, to the second.
pub(crate) fn moment(ms: u64) -> String {
    match UNIX_EPOCH.checked_add(Duration::from_millis(ms)) {
        // The largest year that humantime writes is 9999.
        Some(time) if ms < 253_402_300_800_000 => humantime::format_rfc3339_seconds(time).to_string(),
        _ => format!("{ms} ms after 1970"),
    }
}

pub(crate) fn size(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let bytes = bytes as f64;
    match bytes {
        ..1e6 => format!("{:.1} kB", bytes / 1e3),
        ..1e9 => format!("{:.1} MB", bytes / 1e6),
        _ => format!("{:.1} GB", bytes / 1e9),
    }
}

/// A name cannot move the cursor of whoever reads it.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Host {
        let anomaly = |kind: rdp::AnomalyKind, about, times, first_seconds| rdp::Anomaly {
            kind: kind.into(),
            about: Some(about),
            times,
            first_seconds,
            last_seconds: 3,
        };
        let pasted = anomaly(rdp::AnomalyKind::ClipboardBurst, About::Session(2), 120, 17);
        let session = |id, user: &str, state: rdp::SessionState| rdp::Session {
            id,
            user: user.into(),
            state: state.into(),
            client_address: (id == 1).then(|| "192.0.2.7:50123".into()),
            width: 1920,
            height: 1080,
            codec: (id == 1).then(|| "EGFX AVC420".into()),
            age_seconds: 7500,
            state_seconds: 65,
            idle_seconds: 3,
            pictures: 120,
            bytes: 2_345_678,
            ends_in_seconds: (id == 2).then_some(835),
            anomalies: (id == 2).then(|| pasted.clone()).into_iter().collect(),
        };
        Host::from(rdp::Status {
            version: "0.1.0".into(),
            uptime_seconds: 90_061,
            port: 3389,
            certificate_sha256: "AA:BB".into(),
            max_sessions: 8,
            sessions: vec![
                session(1, "ada", rdp::SessionState::Connected),
                session(2, "grace", rdp::SessionState::Parked),
            ],
            video_encoder: "OpenH264 in software (no video device can be seen)".into(),
            sessions_recorded: true,
            anomalies: vec![
                anomaly(rdp::AnomalyKind::FailedLogins, About::Address("2001:db8::/64".into()), 12, 250),
                anomaly(rdp::AnomalyKind::FailedLogins, About::User("ada\u{1b}[2J".into()), 7, 250),
                anomaly(rdp::AnomalyKind::FailedLogins, About::UnknownUsers(true), 5, 3),
                pasted.clone(),
            ],
        })
    }

    #[test]
    fn the_json_fields_are_the_documented_ones() {
        assert_eq!(json(&example()), include_str!("../testdata/status-v1.json"));
    }

    #[test]
    fn the_text_is_aligned() {
        assert_eq!(host(&example()), include_str!("../testdata/status.txt"));
        assert_eq!(session(&example().sessions[1]), include_str!("../testdata/session.txt"));
        assert_eq!(sessions(&[]), "No sessions.\n");
        let quiet = host(&Host { anomalies: Vec::new(), ..example() });
        assert!(quiet.contains("\nAnomalies    none\n") && !quiet.contains("ANOMALY"), "{quiet}");
        assert!(!session(&example().sessions[0]).contains("ANOMALY"));
    }

    #[test]
    fn times_have_two_units_at_most() {
        let spans: Vec<_> = [0, 59, 60, 3599, 3600, 86_399, 86_400, 900_000].map(span).to_vec();
        assert_eq!(
            spans,
            ["0 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "23 h 59 min", "1 d 0 h", "10 d 10 h"]
        );
    }
}
