//! `lucidctl update`: how the device keeps itself on the newest release, and asking it to.

use std::io::{IsTerminal as _, stdout};
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use clap::{Args, Subcommand};
use lucid_ipc::tonic::transport::Channel;
use lucid_ipc::tonic::{Code, Streaming};
use lucid_ipc::update::updates_client::UpdatesClient;
use lucid_ipc::update::{
    ApplyRequest, Cause, CheckRequest, Ending, GetScheduleRequest, HistoryRequest, JournalRequest, Phase,
    RollbackRequest, SetScheduleRequest, Slot, StatusRequest, UpdateStatus,
};
use lucid_ipc::update::{
    Offered as WireOffered, Outcome as WireOutcome, Progress as WireProgress, Schedule as WireSchedule,
    Trust as WireTrust,
};
use serde::Serialize;

use crate::report::{json, moment, pairs, plain, size, span, table};
use crate::session::ask;
use crate::{Error, print};

/// Updates of the system: which version runs, what is being installed, how it ended. Needs root, and lucid-updated.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Shows what runs, what is being installed and how far that is, how the last update ended, and what is believed.
    Status {
        /// Goes on in one line, until interrupted: drawn over on a terminal, otherwise a line for each change; with --json
        /// one object a line.
        #[arg(long)]
        watch: bool,
        #[command(flatten)]
        updater: Updater,
    },
    /// Has the device look for a release, and write it into the slot that does not run. Where fetching costs (`metered` in
    /// lucid.toml), it says what there is and how much that would be.
    Check {
        /// Fetches it also where that costs.
        #[arg(long)]
        download: bool,
        /// Waits until that is done, and shows how far it is, as `update status --watch` does.
        #[arg(long)]
        watch: bool,
        #[command(flatten)]
        updater: Updater,
    },
    /// Has the device restart into the newest release at once, whoever is connected, also into one that was tried before and
    /// did not pass. Shows how far it is until the machine restarts (exit status 0), or it ends without that (1). Interrupting
    /// it does not stop the update.
    Apply {
        #[command(flatten)]
        updater: Updater,
    },
    /// Has the device restart into the system that ran before the last update, whoever is connected, if that is in the other slot
    /// still as a whole. It is tried as a new one is; the version that is left is not taken again by itself. Shows how it goes
    /// until the machine restarts (exit status 0), or says why it cannot be (1).
    Rollback {
        #[command(flatten)]
        updater: Updater,
    },
    /// Shows when the device looks for a release next, and when it may restart by itself; with options, sets some of that, beside
    /// what lucid.toml says, until --reset.
    Schedule {
        /// The machine restarts by itself within this time of the day alone, in UTC. It may pass midnight.
        #[arg(long, value_name = "HH:MM-HH:MM")]
        window: Option<String>,
        /// The machine restarts into what is ready at this time, once: not before, and then whoever is connected.
        #[arg(long, value_name = "TIME", value_parser = time)]
        at: Option<u64>,
        /// For so long nothing is fetched, and the machine does not restart, unless somebody asks; at most 90 days.
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, conflicts_with = "resume")]
        pause: Option<Duration>,
        /// Ends a pause.
        #[arg(long)]
        resume: bool,
        /// First drops all that was set: what lucid.toml says holds.
        #[arg(long)]
        reset: bool,
        #[command(flatten)]
        updater: Updater,
    },
    /// Lists how updates ended, the newest last; with --json one object a line.
    History {
        #[command(flatten)]
        updater: Updater,
    },
    /// Shows the end of the journal of a system that was tried and did not pass, with the reason. Three are kept.
    Journal {
        /// 1 for the start that failed last, 2 for the one before it, and so on.
        #[arg(value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=3))]
        number: u32,
        #[command(flatten)]
        updater: Updater,
    },
}

/// A time in UTC as people write it (`2026-12-01T02:00Z`, or with seconds), in seconds since 1970.
fn time(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no time; write it in UTC, like 2026-12-01T02:00Z");
    let whole = match text.strip_suffix('Z') {
        Some(minutes) if minutes.len() == "2026-12-01T02:00".len() => format!("{minutes}:00Z"),
        _ => text.to_owned(),
    };
    let time = humantime::parse_rfc3339(&whole).map_err(|_| wrong())?;
    time.duration_since(UNIX_EPOCH).map(|since| since.as_secs()).map_err(|_| wrong())
}

/// Whom to ask.
#[derive(Args)]
pub(crate) struct Updater {
    /// The update service's socket.
    #[arg(long, value_name = "PATH", default_value = "/run/lucid-updated/control.sock")]
    updater: PathBuf,
}

type Client = UpdatesClient<Channel>;

impl Updater {
    async fn connect(&self) -> Result<Client, Error> {
        match lucid_ipc::connect(&self.updater).await {
            Ok(channel) => Ok(UpdatesClient::new(channel)),
            Err(error @ lucid_ipc::Error::NotRunning { .. }) => Err(Error::NoUpdater(error)),
            Err(error) => Err(error.into()),
        }
    }
}

/// `update status --json`; with --watch one of these a line.
#[derive(Clone, Debug, Serialize)]
struct Status {
    running: String,
    /// `a` or `b`.
    slot: &'static str,
    /// The firmware started it as a try.
    tried: bool,
    /// `idle`, `staging`, `staged`, `trying` or `good`.
    phase: &'static str,
    /// What is being installed, and into which slot.
    version: Option<String>,
    target: Option<&'static str>,
    progress: Option<Progress>,
    memory_peak_bytes: Option<u64>,
    floor: String,
    refused: Vec<String>,
    last: Option<Outcome>,
    trust: Option<Trust>,
    /// What is not as it should be.
    troubles: Vec<String>,
    /// For what a restart waits.
    waiting: Option<String>,
    /// The number of the last wish (`update check --json`) that was done, and why it failed, where it did.
    wishes_done: u64,
    wish_failed: Option<String>,
    /// What is there and was not fetched.
    offered: Option<Offered>,
    /// From where what is being installed comes.
    source: Option<String>,
    /// What set the last look at the sources off: `itself`, `request` or `stick`.
    cause: Option<&'static str>,
}

/// A release that is there and was not fetched.
#[derive(Clone, Debug, Serialize)]
struct Offered {
    version: String,
    /// At most.
    download_bytes: u64,
    why: String,
}

/// `update schedule --json`. Times are seconds since 1970.
#[derive(Clone, Debug, Serialize)]
struct Schedule {
    next_look_seconds: Option<u64>,
    automatic: bool,
    window: Option<String>,
    /// Whether the window was set by `update schedule`.
    window_set: bool,
    at_seconds: Option<u64>,
    paused_until_seconds: Option<u64>,
    metered: bool,
    /// From when on the machine may restart by itself; `null`: it does not.
    restart_seconds: Option<u64>,
    waiting: Option<String>,
    offered: Option<Offered>,
    /// A release for which other devices are first, and when this one's turn comes.
    turn_version: Option<String>,
    turn_seconds: Option<u64>,
}

/// How far a slot is written.
#[derive(Clone, Debug, Serialize)]
struct Progress {
    total_bytes: u64,
    done_bytes: u64,
    kept_bytes: u64,
    copied_bytes: u64,
    fetched_bytes: u64,
    bytes_per_second: u64,
    seconds_left: Option<u64>,
}

/// `update history --json`: one of these a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Outcome {
    version: String,
    slot: &'static str,
    /// `installed`, `failed`, `dropped` or `lost`.
    ending: &'static str,
    reason: String,
    /// Since 1970.
    at_seconds: u64,
    /// From where it came.
    source: Option<String>,
}

/// What is believed.
#[derive(Clone, Debug, Serialize)]
struct Trust {
    root_version: u64,
    root_expires: String,
    development: bool,
    timestamp_version: Option<u64>,
    timestamp_expires: Option<String>,
    looked: Option<String>,
}

fn slot(slot: Slot) -> &'static str {
    match slot {
        Slot::A => "a",
        Slot::B => "b",
        Slot::Unspecified => "unknown",
    }
}

impl From<UpdateStatus> for Status {
    fn from(status: UpdateStatus) -> Status {
        let phase = match status.phase() {
            Phase::Idle => "idle",
            Phase::Staging => "staging",
            Phase::Staged => "staged",
            Phase::Trying => "trying",
            Phase::Good => "good",
            Phase::Unspecified => "unknown",
        };
        let cause = match status.cause() {
            Cause::Unspecified => None,
            Cause::Itself => Some("itself"),
            Cause::Request => Some("request"),
            Cause::Stick => Some("stick"),
        };
        Status {
            slot: slot(status.slot()),
            target: status.target.map(|_| slot(status.target())),
            phase,
            running: status.running,
            tried: status.tried,
            version: status.version,
            progress: status.progress.map(Progress::from),
            memory_peak_bytes: Some(status.memory_peak_bytes).filter(|bytes| *bytes > 0),
            floor: status.floor,
            refused: status.refused,
            last: status.last.map(Outcome::from),
            trust: status.trust.map(Trust::from),
            troubles: status.troubles,
            waiting: status.waiting,
            wishes_done: status.wishes_done,
            wish_failed: status.wish_failed,
            offered: status.offered.map(Offered::from),
            source: status.source,
            cause,
        }
    }
}

impl From<WireOffered> for Offered {
    fn from(offered: WireOffered) -> Offered {
        let WireOffered { version, download_bytes, why } = offered;
        Offered { version, download_bytes, why }
    }
}

impl From<WireSchedule> for Schedule {
    fn from(schedule: WireSchedule) -> Schedule {
        let turn = schedule.turn.map(|turn| (turn.version, turn.at_seconds)).unzip();
        Schedule {
            next_look_seconds: schedule.next_look_seconds,
            automatic: schedule.automatic,
            window: schedule.window,
            window_set: schedule.window_set,
            at_seconds: schedule.at_seconds,
            paused_until_seconds: schedule.paused_until_seconds,
            metered: schedule.metered,
            restart_seconds: schedule.restart_seconds,
            waiting: schedule.waiting,
            offered: schedule.offered.map(Offered::from),
            turn_version: turn.0,
            turn_seconds: turn.1,
        }
    }
}

impl Offered {
    fn words(&self) -> String {
        let (version, why) = (plain(&self.version), plain(&self.why));
        let size = size(self.download_bytes);
        format!(
            "{version}, which is not fetched ({size} at most): {why}; `lucidctl update check --download` does it"
        )
    }
}

impl Schedule {
    /// `update schedule`
    fn text(&self) -> String {
        let when = |seconds: u64| moment(seconds.saturating_mul(1000));
        let look =
            self.next_look_seconds.map_or_else(|| "none: there is no source, or none yet".to_owned(), when);
        let window = match (&self.window, self.window_set) {
            (Some(window), true) => format!("{} (UTC), as was set", plain(window)),
            (Some(window), false) => format!("{} (UTC), as lucid.toml says", plain(window)),
            (None, _) => "any time of the day".to_owned(),
        };
        let restart = match (self.restart_seconds, self.at_seconds) {
            (Some(from), Some(_)) => {
                format!(
                    "once at {}, into what is ready then, whoever is connected; where nothing is, the time is forgotten",
                    when(from)
                )
            }
            (Some(from), None) => {
                format!("from {} on, when something is ready and nobody is connected", when(from))
            }
            (None, _) => "only when somebody asks (`lucidctl update apply`)".to_owned(),
        };
        let mut rows = vec![("Next look", look), ("Restart", restart), ("Window", window)];
        rows.extend(self.paused_until_seconds.map(|until| {
            ("Paused", format!("until {}; `lucidctl update schedule --resume` ends that", when(until)))
        }));
        rows.extend(self.waiting.iter().map(|waiting| ("Now", plain(waiting))));
        if let (Some(version), Some(at)) = (&self.turn_version, self.turn_seconds) {
            rows.push((
                "Turn",
                format!("{}: other devices are first, this one from {} on", plain(version), when(at)),
            ));
        }
        rows.extend(self.offered.iter().map(|offered| ("Offered", offered.words())));
        if self.metered {
            rows.push((
                "Link",
                "fetching costs, as lucid.toml says: nothing is fetched without asking".to_owned(),
            ));
        }
        let mut out = String::new();
        pairs(&mut out, &rows);
        out
    }
}

impl From<WireProgress> for Progress {
    fn from(progress: WireProgress) -> Progress {
        Progress {
            total_bytes: progress.total_bytes,
            done_bytes: progress.done_bytes,
            kept_bytes: progress.kept_bytes,
            copied_bytes: progress.copied_bytes,
            fetched_bytes: progress.fetched_bytes,
            bytes_per_second: progress.bytes_per_second,
            seconds_left: progress.seconds_left,
        }
    }
}

impl From<WireOutcome> for Outcome {
    fn from(outcome: WireOutcome) -> Outcome {
        let ending = match outcome.ending() {
            Ending::Installed => "installed",
            Ending::Failed => "failed",
            Ending::Dropped => "dropped",
            Ending::Lost => "lost",
            Ending::Unspecified => "unknown",
        };
        Outcome {
            slot: slot(outcome.slot()),
            ending,
            version: outcome.version,
            reason: outcome.reason,
            at_seconds: outcome.at_seconds,
            source: outcome.source,
        }
    }
}

impl From<WireTrust> for Trust {
    fn from(trust: WireTrust) -> Trust {
        let timestamp = trust.timestamp.map(|timestamp| (timestamp.version, timestamp.expires)).unzip();
        Trust {
            root_version: trust.root_version,
            root_expires: trust.root_expires,
            development: trust.development,
            timestamp_version: timestamp.0,
            timestamp_expires: timestamp.1,
            looked: trust.looked,
        }
    }
}

impl Outcome {
    /// How it ended, in words.
    fn words(&self) -> &'static str {
        match self.ending {
            "installed" => "was installed",
            "failed" => "did not pass",
            "dropped" => "was given up",
            "lost" => "ran when its records were lost",
            _ => "ended in a way that this lucidctl does not know",
        }
    }

    /// Why, and from where it came.
    fn why(&self) -> String {
        let source = self.source.as_ref().map(|source| format!(" (from {})", plain(source)));
        plain(&self.reason) + &source.unwrap_or_default()
    }

    fn when(&self) -> String {
        moment(self.at_seconds.saturating_mul(1000))
    }
}

impl Status {
    fn about(&self) -> String {
        plain(self.version.as_deref().unwrap_or("a release"))
    }

    /// Whether the machine restarts into what is being installed.
    fn restarts(&self) -> bool {
        matches!(self.phase, "trying" | "good") && self.target != Some(self.slot)
    }

    /// What is being done.
    fn doing(&self) -> String {
        let (version, target) = (self.about(), self.target.unwrap_or("unknown").to_uppercase());
        match self.phase {
            "idle" => "nothing is being installed".to_owned(),
            "staging" => match &self.progress {
                Some(progress) => format!("{version} goes into slot {target}: {}", progress.words()),
                None => format!("{version} goes into slot {target}, when that goes on"),
            },
            "staged" => format!("{version} is in slot {target}: `lucidctl update apply` restarts into it"),
            "trying" | "good" if self.restarts() => format!("the machine restarts into {version}"),
            "trying" => format!("{version} is being tried: whether all is well is being looked at"),
            "good" => format!("{version} is well, and is kept"),
            _ => "something that this lucidctl does not know".to_owned(),
        }
    }

    /// The same in one line, with what holds it up.
    fn line(&self) -> String {
        let held_up = self.waiting.iter().chain(&self.troubles);
        held_up.fold(self.doing(), |line, why| line + "; " + &plain(why))
    }

    /// `update status`
    fn text(&self) -> String {
        let tried = if self.tried { ", started as a try" } else { "" };
        let running = format!("{} in slot {}{tried}", plain(&self.running), self.slot.to_uppercase());
        let mut rows = vec![("Runs", running), ("State", self.doing())];
        if let Some(source) = &self.source {
            rows.push(("From", plain(source)));
        }
        if let Some(progress) = &self.progress {
            rows.push(("Of that", progress.origin()));
        }
        if let Some(waiting) = &self.waiting {
            rows.push(("Restart", plain(waiting)));
        }
        rows.extend(self.offered.iter().map(|offered| ("Offered", offered.words())));
        let last = self.last.as_ref().map_or_else(
            || "none yet".to_owned(),
            |last| {
                let (version, reason) = (plain(&last.version), last.why());
                format!("{version} {} ({}): {reason}", last.words(), last.when())
            },
        );
        rows.push(("Last update", last));
        rows.push(("Floor", format!("nothing below {} is installed", plain(&self.floor))));
        if !self.refused.is_empty() {
            let refused = plain(&self.refused.join(", "));
            rows.push(("Refused", format!("{refused}: only `lucidctl update apply` takes that again")));
        }
        if let Some(trust) = &self.trust {
            rows.extend(trust.rows());
        }
        let cause = match self.cause {
            Some("request") => Some("somebody asked for it"),
            Some("stick") => Some("a USB stick was plugged in"),
            Some(_) => Some("it was time for it"),
            None => None,
        };
        rows.extend(cause.map(|cause| ("Last look", cause.to_owned())));
        if let Some(bytes) = self.memory_peak_bytes {
            rows.push(("Memory", format!("{} at most", size(bytes))));
        }
        rows.extend(self.troubles.iter().map(|trouble| ("Trouble", plain(trouble))));
        let mut out = String::new();
        pairs(&mut out, &rows);
        out
    }
}

impl Progress {
    fn words(&self) -> String {
        let total = size(self.total_bytes);
        if self.done_bytes == 0 {
            return format!("{total} in all; what the disk holds of it already is being looked for");
        }
        if self.done_bytes == self.total_bytes {
            return format!("all {total} are in their places, and are read back");
        }
        let percent = self.done_bytes.saturating_mul(100).checked_div(self.total_bytes).unwrap_or(100);
        let pace = match self.seconds_left {
            Some(left) => format!("{}/s, {} left", size(self.bytes_per_second), span(left)),
            None => "nothing moves".to_owned(),
        };
        format!("{} of {total} ({percent} %), {pace}", size(self.done_bytes))
    }

    /// Where the bytes came from.
    fn origin(&self) -> String {
        let [kept, copied, fetched] = [self.kept_bytes, self.copied_bytes, self.fetched_bytes].map(size);
        format!("{kept} were there, {copied} were copied on the disk; {fetched} were fetched, compressed")
    }
}

impl Trust {
    fn rows(&self) -> Vec<(&'static str, String)> {
        let development = if self.development { " for development (no release image takes it)" } else { "" };
        let root =
            format!("version {}{development}, expires {}", self.root_version, plain(&self.root_expires));
        let mut rows = vec![("Root", root)];
        if let (Some(version), Some(expires)) = (self.timestamp_version, &self.timestamp_expires) {
            rows.push(("Timestamp", format!("version {version}, expires {}", plain(expires))));
        }
        let never = "no source has given what is believed yet".to_owned();
        rows.push(("Good look", self.looked.as_deref().map_or(never, plain)));
        rows
    }
}

/// `update history`
fn lines(history: &[Outcome]) -> String {
    if history.is_empty() {
        return "No update has ended yet.\n".into();
    }
    let mut rows = vec![["ENDED", "VERSION", "SLOT", "HOW", "WHY"].map(str::to_owned)];
    rows.extend(history.iter().map(|outcome| {
        [
            outcome.when(),
            plain(&outcome.version),
            outcome.slot.to_uppercase(),
            outcome.words().to_owned(),
            outcome.why(),
        ]
    }));
    table(&rows)
}

/// One line, over and over: drawn over on a terminal as long as it is about the same, otherwise printed when it is another one.
#[derive(Default)]
struct Ticker {
    terminal: bool,
    about: Option<(&'static str, Option<String>)>,
    line: String,
}

impl Ticker {
    fn new(terminal: bool) -> Ticker {
        Ticker { terminal, ..Ticker::default() }
    }

    /// What has to be printed.
    fn tell(&mut self, status: &Status) -> String {
        let (line, about) = (status.line(), Some((status.phase, status.version.clone())));
        if line == self.line {
            return String::new();
        }
        let text = if self.terminal {
            let begin = match &self.about {
                None => "",
                same if *same == about => "\r\x1b[2K",
                Some(_) => "\n",
            };
            // Cut at the terminal's edge: what is wrapped cannot be drawn over (ECMA-48 EL, DEC's autowrap mode).
            format!("{begin}\x1b[?7l{line}\x1b[?7h")
        } else {
            format!("{line}\n")
        };
        (self.about, self.line) = (about, line);
        text
    }

    /// What has to be printed before anything else is.
    fn end(&mut self) -> &'static str {
        if self.terminal && self.about.take().is_some() { "\n" } else { "" }
    }
}

/// What the device was asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Check,
    Download,
    Apply,
    Rollback,
}

/// How that ended.
#[derive(Debug, PartialEq, Eq)]
struct End {
    /// As it was wished.
    done: bool,
    words: String,
}

/// How a wish of this number ended, if it did. `before` is the last outcome that there was before.
fn end(asked: Asked, wish: u64, before: Option<&Outcome>, now: &Status) -> Option<End> {
    let version = now.about();
    if now.restarts() {
        return Some(End { done: true, words: format!("The machine restarts into {version}.") });
    }
    if now.wishes_done < wish {
        return None;
    }
    let checked = matches!(asked, Asked::Check | Asked::Download);
    let last = now.last.as_ref().filter(|last| Some(*last) != before);
    Some(match (&now.wish_failed, last) {
        (Some(why), _) => End { done: false, words: format!("That failed: {}.", plain(why)) },
        (None, _) if now.phase == "staged" && checked => {
            let words = format!("{version} is complete: `lucidctl update apply` restarts into it.");
            End { done: true, words }
        }
        (None, Some(last)) => {
            let words = format!("{} {}: {}.", plain(&last.version), last.words(), plain(&last.reason));
            End { done: checked, words }
        }
        (None, None) => {
            let words = match &now.offered {
                Some(offered) if checked => format!("There is {}.", offered.words()),
                _ => {
                    let running = plain(&now.running);
                    format!("There is nothing that this device takes now: it stays on {running}.")
                }
            };
            End { done: checked, words }
        }
    })
}

/// What is told next; nothing more where the service has stopped.
async fn next(changes: &mut Streaming<UpdateStatus>) -> Result<Option<Status>, Error> {
    match changes.message().await {
        Ok(told) => Ok(told.map(Status::from)),
        // What a connection says that broke.
        Err(status)
            if matches!(
                status.code(),
                Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled
            ) =>
        {
            Ok(None)
        }
        Err(status) => Err(status.into()),
    }
}

async fn wish(client: &mut Client, asked: Asked) -> Result<u64, Error> {
    let answer = match asked {
        Asked::Check => client.check(CheckRequest { download: false }).await?,
        Asked::Download => client.check(CheckRequest { download: true }).await?,
        Asked::Apply => client.apply(ApplyRequest {}).await?,
        Asked::Rollback => client.rollback(RollbackRequest {}).await?,
    };
    Ok(answer.into_inner().wish)
}

/// Shows how it goes, until what was asked for has ended; says whether as it was wished.
async fn watch(updater: &Updater, asked: Option<Asked>, as_json: bool) -> Result<bool, Error> {
    let mut client = updater.connect().await?;
    // First, so that it is known how things stood before.
    let mut changes = client.status(StatusRequest {}).await?.into_inner();
    let mut told = next(&mut changes).await;
    let before = match &told {
        Ok(Some(first)) => first.last.clone(),
        _ => None,
    };
    let waits = match asked {
        Some(asked) => Some((asked, wish(&mut client, asked).await?)),
        None => None,
    };
    let mut ticker = Ticker::new(!as_json && stdout().is_terminal());
    loop {
        let now = match told {
            Ok(Some(now)) => now,
            Ok(None) => {
                print(ticker.end())?;
                return Err(Error::UpdaterStopped);
            }
            Err(error) => {
                print(ticker.end())?;
                return Err(error);
            }
        };
        print(&if as_json { json(&now) } else { ticker.tell(&now) })?;
        if let Some((asked, wish)) = waits
            && let Some(End { done, words }) = end(asked, wish, before.as_ref(), &now)
        {
            if !as_json {
                print(&format!("{}{words}\n", ticker.end()))?;
            }
            return Ok(done);
        }
        told = next(&mut changes).await;
    }
}

/// What is asked for by `update check`.
fn check(download: bool) -> Asked {
    if download { Asked::Download } else { Asked::Check }
}

/// Says whether it was done.
pub(crate) fn run(command: &Command, as_json: bool) -> Result<bool, Error> {
    match command {
        Command::Status { watch: true, updater } => return ask(watch(updater, None, as_json)),
        Command::Check { watch: true, download, updater } => {
            return ask(watch(updater, Some(check(*download)), as_json));
        }
        Command::Apply { updater } => return ask(watch(updater, Some(Asked::Apply), as_json)),
        Command::Rollback { updater } => return ask(watch(updater, Some(Asked::Rollback), as_json)),
        Command::Status { watch: false, updater } => {
            let status = ask(async {
                let mut client = updater.connect().await?;
                let mut changes = client.status(StatusRequest {}).await?.into_inner();
                next(&mut changes).await?.ok_or(Error::UpdaterStopped)
            })?;
            print(&if as_json { json(&status) } else { status.text() })?;
        }
        Command::Schedule { window, at, pause, resume, reset, updater } => {
            let set = SetScheduleRequest {
                window: window.clone(),
                at_seconds: *at,
                pause_seconds: pause.map(|pause| pause.as_secs()),
                resume: *resume,
                reset: *reset,
            };
            let schedule = ask(async {
                let mut client = updater.connect().await?;
                let answer = if set == SetScheduleRequest::default() {
                    client.get_schedule(GetScheduleRequest {}).await?
                } else {
                    client.set_schedule(set).await?
                };
                Ok(Schedule::from(answer.into_inner()))
            })?;
            print(&if as_json { json(&schedule) } else { schedule.text() })?;
        }
        Command::Check { watch: false, download, updater } => {
            let wish = ask(async { wish(&mut updater.connect().await?, check(*download)).await })?;
            print(&if as_json {
                json(&serde_json::json!({ "wish": wish }))
            } else {
                "The device looks for a release. `lucidctl update status --watch` shows how it goes.\n"
                    .to_owned()
            })?;
        }
        Command::History { updater } => {
            let history = ask(async {
                Ok(updater.connect().await?.history(HistoryRequest {}).await?.into_inner().outcomes)
            })?;
            let history: Vec<_> = history.into_iter().map(Outcome::from).collect();
            print(&if as_json { history.iter().map(json).collect::<String>() } else { lines(&history) })?;
        }
        Command::Journal { number, updater } => {
            let text = ask(async {
                let request = JournalRequest { number: *number };
                Ok(updater.connect().await?.journal(request).await?.into_inner().text)
            })?;
            print(&if as_json {
                json(&serde_json::json!({ "number": number, "text": text }))
            } else {
                text.lines().map(|line| plain(line) + "\n").collect()
            })?;
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use lucid_ipc::update::{Timestamp, Turn};

    use super::*;

    fn told() -> UpdateStatus {
        UpdateStatus {
            running: "0.1.0".into(),
            slot: Slot::A.into(),
            tried: false,
            phase: Phase::Staging.into(),
            version: Some("0.2.0".into()),
            target: Some(Slot::B.into()),
            progress: Some(WireProgress {
                total_bytes: 400_000_000,
                done_bytes: 123_400_000,
                kept_bytes: 80_000_000,
                copied_bytes: 23_300_000,
                fetched_bytes: 8_100_000,
                bytes_per_second: 5_200_000,
                seconds_left: Some(54),
            }),
            memory_peak_bytes: 12_000_000,
            floor: "0.0.9".into(),
            refused: vec!["0.1.5".into(), "0.1.6".into()],
            last: Some(WireOutcome {
                version: "0.1.6".into(),
                slot: Slot::B.into(),
                ending: Ending::Failed.into(),
                reason: "the RDP host does not answer\u{1b}[2J".into(),
                at_seconds: 1_790_000_000,
                source: Some("https://example.org/".into()),
            }),
            trust: Some(WireTrust {
                root_version: 2,
                root_expires: "2027-01-31T00:00:00Z".into(),
                development: true,
                timestamp: Some(Timestamp { version: 7, expires: "2026-12-01T00:00:00Z".into() }),
                looked: Some("2026-09-21T06:00:00Z".into()),
            }),
            troubles: vec!["trust.json: it is no text".into()],
            waiting: Some("the restart waits: 2 sessions are open".into()),
            wishes_done: 3,
            wish_failed: Some("no source answers".into()),
            offered: Some(offered()),
            source: Some("the USB stick sda1".into()),
            cause: Cause::Stick.into(),
        }
    }

    fn offered() -> WireOffered {
        WireOffered {
            version: "0.3.0".into(),
            download_bytes: 12_300_000,
            why: "fetching costs here\u{1b}[2J".into(),
        }
    }

    /// All there is.
    fn planned() -> Schedule {
        Schedule::from(WireSchedule {
            next_look_seconds: Some(1_790_000_000),
            automatic: true,
            window: Some("02:00-04:00".into()),
            window_set: true,
            at_seconds: Some(1_790_100_000),
            paused_until_seconds: Some(1_790_050_000),
            metered: true,
            restart_seconds: Some(1_790_100_000),
            waiting: Some("the restart waits: updates are paused".into()),
            offered: Some(offered()),
            turn: Some(Turn { version: "0.4.0".into(), at_seconds: 1_790_200_000 }),
        })
    }

    fn example() -> Status {
        Status::from(told())
    }

    /// One who has nothing to say yet.
    fn quiet() -> Status {
        Status::from(UpdateStatus {
            running: "0.1.0".into(),
            slot: Slot::A.into(),
            phase: Phase::Idle.into(),
            floor: "0.1.0".into(),
            ..UpdateStatus::default()
        })
    }

    fn at(phase: &'static str, target: &'static str) -> Status {
        Status { phase, version: Some("0.2.0".into()), target: Some(target), ..quiet() }
    }

    #[test]
    fn the_json_fields_are_the_documented_ones() {
        assert_eq!(json(&example()), include_str!("../testdata/update-status-v1.json"));
        let outcome = example().last.unwrap();
        assert_eq!(json(&outcome), include_str!("../testdata/update-history-v1.jsonl"));
        assert_eq!(json(&planned()), include_str!("../testdata/update-schedule-v1.json"));
    }

    #[test]
    fn the_schedule_says_what_holds_and_what_was_set() {
        assert_eq!(planned().text(), include_str!("../testdata/update-schedule.txt"));
        let free = Schedule::from(WireSchedule {
            next_look_seconds: Some(1_790_000_000),
            automatic: true,
            restart_seconds: Some(1_790_000_000),
            ..WireSchedule::default()
        });
        assert_eq!(
            free.text(),
            "Next look  2026-09-21T14:13:20Z\n\
             Restart    from 2026-09-21T14:13:20Z on, when something is ready and nobody is connected\n\
             Window     any time of the day\n"
        );
        let by_hand =
            Schedule::from(WireSchedule { window: Some("02:00-04:00".into()), ..WireSchedule::default() });
        let text = by_hand.text();
        for part in ["only when somebody asks", "02:00-04:00 (UTC), as lucid.toml says", "there is no source"]
        {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn a_time_is_taken_in_utc_with_and_without_seconds_and_nothing_else() {
        for text in ["2026-09-21T14:13Z", "2026-09-21T14:13:00Z"] {
            assert_eq!(time(text), Ok(1_790_000_000 - 20), "{text}");
        }
        for text in
            ["", "Z", "2026-09-21", "14:13", "2026-09-21T14:13", "2026-09-21T25:13Z", "1969-12-31T23:59Z"]
        {
            assert!(time(text).unwrap_err().contains("2026-12-01T02:00Z"), "{text}");
        }
    }

    #[test]
    fn what_is_to_be_set_is_understood_and_a_pause_is_not_begun_and_ended_at_once() {
        let parse = |words: &str| {
            Arguments::try_parse_from(["update", "schedule"].into_iter().chain(words.split(' ')))
        };
        let Command::Schedule { window, at, pause, .. } =
            parse("--window 02:00-04:00 --at 2026-09-21T14:13Z --pause 7d").unwrap().command
        else {
            panic!("another command")
        };
        assert_eq!((window.as_deref(), at), (Some("02:00-04:00"), Some(1_789_999_980)));
        assert_eq!(pause, Some(Duration::from_secs(7 * 86_400)));
        assert!(parse("--pause 7d --resume").is_err());
        assert!(parse("--at soon").is_err());
    }

    #[test]
    fn the_text_is_aligned_and_says_what_there_is() {
        assert_eq!(example().text(), include_str!("../testdata/update-status.txt"));
        assert_eq!(
            quiet().text(),
            "Runs         0.1.0 in slot A\n\
             State        nothing is being installed\n\
             Last update  none yet\n\
             Floor        nothing below 0.1.0 is installed\n"
        );
        let last = example().last.unwrap();
        let first = Outcome {
            version: "0.1.0".into(),
            slot: "a",
            ending: "installed",
            at_seconds: 0,
            source: None,
            ..last.clone()
        };
        assert_eq!(
            lines(&[first, last]),
            "ENDED                 VERSION  SLOT  HOW            WHY\n\
             1970-01-01T00:00:00Z  0.1.0    A     was installed  the RDP host does not answer?[2J\n\
             2026-09-21T14:13:20Z  0.1.6    B     did not pass   the RDP host does not answer?[2J (from https://example.org/)\n"
        );
        assert_eq!(lines(&[]), "No update has ended yet.\n");
    }

    #[test]
    fn each_phase_has_its_words() {
        let said = |phase, target| at(phase, target).doing();
        assert_eq!(said("staging", "b"), "0.2.0 goes into slot B, when that goes on");
        assert_eq!(said("staged", "b"), "0.2.0 is in slot B: `lucidctl update apply` restarts into it");
        assert_eq!(said("trying", "b"), "the machine restarts into 0.2.0");
        assert_eq!(said("good", "b"), "the machine restarts into 0.2.0");
        assert_eq!(said("trying", "a"), "0.2.0 is being tried: whether all is well is being looked at");
        assert_eq!(said("good", "a"), "0.2.0 is well, and is kept");
        let held_up = example().line();
        assert!(
            held_up.ends_with("54 s left; the restart waits: 2 sessions are open; trust.json: it is no text"),
            "{held_up}"
        );
        let said =
            |done_bytes| Progress { done_bytes, seconds_left: None, ..example().progress.unwrap() }.words();
        assert_eq!(said(0), "400.0 MB in all; what the disk holds of it already is being looked for");
        assert_eq!(said(123_400_000), "123.4 MB of 400.0 MB (30 %), nothing moves");
        assert_eq!(said(400_000_000), "all 400.0 MB are in their places, and are read back");
    }

    #[test]
    fn a_terminal_is_drawn_over_and_anything_else_gets_a_line_for_each_change() {
        let progress = |done_bytes| {
            let progress = Progress { done_bytes, ..example().progress.unwrap() };
            Status { progress: Some(progress), waiting: None, troubles: Vec::new(), ..example() }
        };
        let (one, two, staged) = (progress(40_000_000), progress(80_000_000), at("staged", "b"));
        let line = |done: &str| {
            format!(
                "0.2.0 goes into slot B: {done} of 400.0 MB ({} %), 5.2 MB/s, 54 s left",
                match done {
                    "40.0 MB" => 10,
                    _ => 20,
                }
            )
        };

        let mut plain = Ticker::new(false);
        assert_eq!(plain.tell(&one), line("40.0 MB") + "\n");
        assert_eq!(
            plain.tell(&Status { memory_peak_bytes: None, ..one.clone() }),
            "",
            "nothing that is shown"
        );
        assert_eq!(plain.tell(&two), line("80.0 MB") + "\n");
        assert_eq!(plain.tell(&staged), staged.line() + "\n");
        assert_eq!(plain.end(), "");

        let mut drawn = Ticker::new(true);
        assert_eq!(drawn.tell(&one), format!("\x1b[?7l{}\x1b[?7h", line("40.0 MB")));
        assert_eq!(drawn.tell(&two), format!("\r\x1b[2K\x1b[?7l{}\x1b[?7h", line("80.0 MB")));
        assert_eq!(drawn.tell(&two), "");
        assert_eq!(drawn.tell(&staged), format!("\n\x1b[?7l{}\x1b[?7h", staged.line()), "a line of its own");
        assert_eq!((drawn.end(), drawn.end()), ("\n", ""));
        assert_eq!(Ticker::new(true).end(), "");
    }

    #[test]
    fn a_wish_ends_when_it_was_done_or_the_machine_restarts_and_not_before() {
        let done = |words: &str| Some(End { done: true, words: words.into() });
        let not = |words: &str| Some(End { done: false, words: words.into() });
        let after = |status: Status, failed: Option<&str>| Status {
            wishes_done: 2,
            wish_failed: failed.map(str::to_owned),
            ..status
        };
        for asked in [Asked::Check, Asked::Download, Asked::Apply, Asked::Rollback] {
            // Whatever was before, and whatever others asked for.
            for status in [quiet(), at("staging", "b"), at("staged", "b"), at("trying", "a"), at("good", "a")]
            {
                let status = Status { wishes_done: 1, wish_failed: Some("long ago".into()), ..status };
                assert_eq!(end(asked, 2, None, &status), None, "{status:?}");
            }
            for phase in ["trying", "good"] {
                let restarts = done("The machine restarts into 0.2.0.");
                assert_eq!(end(asked, 2, None, &at(phase, "b")), restarts);
            }
            let failed = after(at("staging", "b"), Some("no source answers"));
            assert_eq!(end(asked, 2, None, &failed), not("That failed: no source answers."));
        }
        let ends =
            |asked, before: Option<&Outcome>, status: Status| end(asked, 2, before, &after(status, None));
        let ready = "0.2.0 is complete: `lucidctl update apply` restarts into it.";
        assert_eq!(ends(Asked::Check, None, at("staged", "b")), done(ready));
        let nothing = "There is nothing that this device takes now: it stays on 0.1.0.";
        assert_eq!(ends(Asked::Check, None, quiet()), done(nothing));
        let held_back = Status { offered: Some(Offered::from(offered())), ..quiet() };
        let words = "There is 0.3.0, which is not fetched (12.3 MB at most): fetching costs here?[2J; \
                     `lucidctl update check --download` does it.";
        assert_eq!(ends(Asked::Check, None, held_back), done(words));
        assert_eq!(ends(Asked::Apply, None, quiet()), not(nothing));
        // An update that ended before is no news, and one that ended meanwhile is.
        let last =
            Outcome { ending: "dropped", reason: "it was withdrawn".into(), ..example().last.unwrap() };
        let dropped = Status { last: Some(last.clone()), ..quiet() };
        assert_eq!(ends(Asked::Apply, Some(&last), dropped.clone()), not(nothing));
        assert_eq!(ends(Asked::Apply, None, dropped), not("0.1.6 was given up: it was withdrawn."));
    }

    #[derive(Parser)]
    struct Arguments {
        #[command(subcommand)]
        command: Command,
    }

    #[test]
    fn a_service_that_does_not_run_is_named_with_how_it_is_started() {
        for words in [
            "status",
            "status --watch",
            "check",
            "check --watch",
            "check --download",
            "apply",
            "rollback",
            "schedule",
            "schedule --resume",
            "history",
        ] {
            let words =
                ["update"].into_iter().chain(words.split(' ')).chain(["--updater", "/nonexistent/u.sock"]);
            let error = run(&Arguments::try_parse_from(words).unwrap().command, false).unwrap_err();
            assert!(matches!(error, Error::NoUpdater(_)), "{error}");
            for part in ["/nonexistent/u.sock", "not running", "systemctl status lucid-updated", "--updater"]
            {
                assert!(error.to_string().contains(part), "{part} is not in {error}");
            }
        }
    }
}
