//! `scripts/bench recording`: sealing beside the sum of its parts and beside restic and borg, on the same files;
//! verification, memory, seeking; and what a session costs more when it is recorded.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use clap::Args;
use serde_json::Value;

use super::{
    hosts::{Lucid, RECORDER, debian},
    link::Link,
    measure::{self, Figures, Plan},
    table,
};
use crate::{
    build,
    client::{Generation, Place},
    error::{At, Error, Result},
    progress::{Steps, ask_well},
    setup::{Project, setup},
};

/// What `scripts/bench recording` may be told.
#[derive(Args)]
pub(crate) struct RecordingArguments {
    /// How often each backup program is measured, and a session with and without its recording, in turns.
    #[arg(long, default_value_t = 2)]
    rounds: u32,
    /// Leaves out what recording costs a session.
    #[arg(long)]
    files_only: bool,
    /// Measures nothing but what recording costs a session.
    #[arg(long, conflicts_with = "files_only")]
    session_only: bool,
    /// Writes the results as a Markdown page to this file as well.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

/// How many MiB the shorter recording has of which the memory is measured.
const SHORT: &str = "64";
/// How often the picture in the middle of a session is asked for.
const SEEKS: usize = 7;

/// Measures and prints.
pub(crate) fn run(project: &Project, steps: &Steps, arguments: &RecordingArguments) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        let why = "the bench makes roots of their own for restic and borg, and a network namespace, which takes root; \
                   run it as root";
        return Err(Error::CannotCheck(why.to_owned()));
    }
    setup(project, steps)?;
    build::host(project, steps, build::Host::Tools)?;
    let mut page =
        format!("# Recordings, measured\n\nMade by `scripts/bench recording`. {}.\n", table::machine());
    if !arguments.session_only {
        files(project, steps, arguments.rounds, &mut page)?;
    }
    if !arguments.files_only {
        session(project, steps, arguments.rounds, &mut page)?;
    }
    println!("{page}");
    if let Some(path) = &arguments.write {
        fs::write(path, page).at("writing", path)?;
    }
    Ok(())
}

/// `sealing`, the example of lucid-recording, as released.
struct Sealing(PathBuf);

impl Sealing {
    fn say(&self, words: &[&str], paths: &[&Path], last: &[&str]) -> Result<Value> {
        let mut command = Command::new(&self.0);
        said(command.args(words).args(paths).args(last))
    }
}

/// What a program of ours says in JSON.
fn said(command: &mut Command) -> Result<Value> {
    let answer = ask_well("measuring recordings", command, b"")?;
    let program = command.get_program().to_string_lossy();
    serde_json::from_slice(&answer.out).map_err(|error| Error::talk(program, error))
}

fn figure(value: &Value, name: &str) -> Result<f64> {
    value[name]
        .as_f64()
        .ok_or_else(|| Error::broken(format!("no figure {name} in what was measured: {value}")))
}

/// A program that keeps files, its version, and what it took for all of them: wall and CPU, in seconds, and bytes kept.
struct Kept {
    name: String,
    wall: f64,
    cpu: f64,
    bytes: f64,
}

fn files(project: &Project, steps: &Steps, rounds: u32, page: &mut String) -> Result<()> {
    let mut cargo = project.command("cargo");
    cargo.args(["build", "--release", "--package", "lucid-recording", "--example", "sealing"]);
    steps.run("building what measures recordings, as it would be released", &mut cargo)?;
    let sealing = Sealing(project.target.join("release/examples/sealing"));
    let dir = project.lucid.join("bench/recording");
    fs::create_dir_all(&dir).at("making", &dir)?;
    let root = dir.join("root");
    let done = dir.join("installed");
    if !done.exists() {
        debian(project, steps, &root, "restic,borgbackup")?;
        fs::write(&done, "").at("writing", &done)?;
    }
    let work = root.join("measured");
    let fresh = |path: &Path| {
        if path.exists() {
            fs::remove_dir_all(path).at("emptying", path)?;
        }
        fs::create_dir_all(path).at("making", path)
    };
    fresh(&work)?;
    let input = work.join("input");
    eprintln!("making what is recorded ...");
    let made = sealing.say(&["input"], &[&input], &[])?;
    let (video, events) = (figure(&made, "video")?, figure(&made, "events")?);
    let bytes = video + events;

    eprintln!("sealing and its parts ...");
    let parts = sealing.say(&["parts"], &[&work], &[])?;
    let rate = |name: &str| figure(&parts, name);
    let limit = 1.0 / (1.0 / rate("seal")? + 1.0 / rate("hash")? + 1.0 / rate("write")?);
    let writer = rate("writer")?;

    let recordings = work.join("recordings");
    let (mut all, mut peak) = (Vec::new(), 0.0);
    for round in 1..=rounds {
        eprintln!("Lucid, restic and borg, round {round} of {rounds} ...");
        fresh(&recordings)?;
        let made = sealing.say(&["write"], &[&input, &recordings], &[])?;
        peak = figure(&made, "peak_kb")?;
        let (wall, cpu, kept) = (figure(&made, "wall")?, figure(&made, "cpu")?, figure(&made, "kept")?);
        all.push(Kept { name: format!("Lucid {}", env!("CARGO_PKG_VERSION")), wall, cpu, bytes: kept });
        all.push(backup(
            &root,
            "restic",
            &["restic", "version"],
            "restic init -q",
            "restic backup -q input",
        )?);
        all.push(backup(
            &root,
            "borg",
            &["borg", "--version"],
            "borg init -e repokey-blake2",
            "borg create ::all input",
        )?);
        steps.interrupt.check()?;
    }
    eprintln!("verification and seeking ...");
    let proved = sealing.say(&["verify"], &[&recordings], &[])?;
    let opened = sealing.say(&["verify"], &[&recordings], &["key"])?;
    let sought = sealing.say(&["seek"], &[&recordings], &[])?;
    fresh(&recordings)?;
    let short = figure(&sealing.say(&["write"], &[&input, &recordings], &[SHORT])?, "peak_kb")?;
    fs::remove_dir_all(&work).at("emptying", &work)?;

    let mut put = |line: String| {
        page.push_str(&line);
        page.push('\n');
    };
    let mb = |rate: f64| format!("{:.0}", rate / 1e6);
    put("\n## Sealing, one core\n".to_owned());
    put("Bytes a second of CPU, the median of seven rounds in turns; records of 64 KiB that do not compress.\n"
        .to_owned());
    put("| | MB/s |\n| --- | ---: |".to_owned());
    put(format!("| XChaCha20-Poly1305 (ring) | {} |", mb(rate("seal")?)));
    put(format!("| BLAKE3 | {} |", mb(rate("hash")?)));
    put(format!("| writing to the file system | {} |", mb(rate("write")?)));
    put(format!("| the three together, at best | {} |", mb(limit)));
    put(format!(
        "| **the recorder's writer** | **{}** ({:.2} of that; goals 0.9, 1000) |",
        mb(writer),
        writer / limit
    ));
    put(format!("| zstd 3 of audit lines, which events take besides | {} |", mb(rate("zstd")?)));
    let over = |value: &Value| -> Result<f64> { Ok(figure(value, "bytes")? / figure(value, "cpu")?) };
    put("\n## Reading\n".to_owned());
    put("| | |\n| --- | ---: |".to_owned());
    put(format!("| verification without a key, MB/s of one core (goal 2000) | {} |", mb(over(&proved)?)));
    put(format!("| verification with every record opened, MB/s of one core | {} |", mb(over(&opened)?)));
    put(format!(
        "| from opening a recording of {} chunks to the first record of its middle, ms | {:.1} |",
        figure(&sought, "chunks")?,
        figure(&sought, "wall")? * 1000.0
    ));
    put(format!(
        "| memory of the writer, MB, after {SHORT} MiB and after {:.0} (goal 64) | {:.1}, {:.1} |",
        bytes / f64::from(1 << 20),
        short / 1000.0,
        peak / 1000.0
    ));
    put(format!(
        "\n## Beside backup programs, {:.0} MB of video and {:.0} MB of audit lines\n",
        video / 1e6,
        events / 1e6
    ));
    put("Each with its own defaults, onto the same disk; wall time with what it waits for the disk.\n"
        .to_owned());
    put("| | s | CPU s | MB/s | MB kept | times Lucid's time |\n| --- | ---: | ---: | ---: | ---: | ---: |"
        .to_owned());
    let mut names: Vec<&str> = Vec::new();
    for kept in &all {
        if !names.contains(&kept.name.as_str()) {
            names.push(&kept.name);
        }
    }
    let best = |name: &str| {
        let of = all.iter().filter(|kept| kept.name == name);
        of.min_by(|a, b| a.wall.total_cmp(&b.wall))
    };
    let ours = names.first().and_then(|name| best(name)).map_or(f64::NAN, |kept| kept.wall);
    for kept in names.iter().filter_map(|name| best(name)) {
        put(format!(
            "| {} | {:.2} | {:.2} | {} | {:.0} | {:.1} |",
            kept.name,
            kept.wall,
            kept.cpu,
            mb(bytes / kept.wall),
            kept.bytes / 1e6,
            kept.wall / ours
        ));
    }
    Ok(())
}

/// Has a backup program keep the input once, in a repository of its own.
fn backup(root: &Path, name: &str, version: &[&str], init: &str, keep: &str) -> Result<Kept> {
    let chroot = |script: &str| {
        // Its own mounts, which go with it.
        let enter = "set -e; mount --bind /dev \"$1/dev\"; mount -t proc proc \"$1/proc\"; exec chroot \"$1\" bash -c \"$2\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", enter, "sh"]).arg(root).arg(script);
        command
    };
    let settings = "export RESTIC_PASSWORD=bench RESTIC_REPOSITORY=/measured/repo RESTIC_CACHE_DIR=/measured/cache \
                    BORG_PASSPHRASE=bench BORG_REPO=/measured/repo BORG_BASE_DIR=/measured/cache; cd /measured; rm -rf repo cache; ";
    let script =
        format!("{settings} {init} >&2; TIMEFORMAT='%R %U %S'; time {keep} >&2; du -sb repo | cut -f1");
    let said = ask_well(&format!("measuring {name}"), &mut chroot(&script), b"")?;
    let bytes: f64 = said.text().trim().parse().map_err(|_| Error::talk(name, said.text()))?;
    let times: Vec<f64> = said
        .err
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let [wall, user, system] = times[..] else { return Err(Error::talk(name, said.err)) };
    let version = ask_well("asking for a version", &mut chroot(&version.join(" ")), b"")?.text();
    let version: Vec<&str> = version.split_whitespace().take(2).collect();
    Ok(Kept { name: version.join(" "), wall, cpu: user + system, bytes })
}

/// What it takes to see the middle of a recorded session.
struct Sought {
    /// Of the recording, in seconds.
    length: f64,
    chunks: f64,
    /// From the command's start to its end, with the picture written, in milliseconds: the median.
    milliseconds: f64,
}

/// Looks at the middle of what was recorded last.
fn seek(lucid: &Lucid, key: &Path) -> Result<Sought> {
    let recordings = lucid.recordings();
    let found = fs::read_dir(&recordings).at("reading", &recordings)?.next();
    let recording =
        found.ok_or_else(|| Error::broken("nothing was recorded"))?.at("reading", &recordings)?.path();
    let command = |words: &[&str]| {
        let mut command = lucid.program("lucidctl");
        command.arg("recording").args(words).arg("--key").arg(key);
        command
    };
    let about = said(command(&["show", "--json"]).arg(&recording))?;
    let (length, chunks) = (figure(&about, "length_us")? / 1e6, figure(&about, "chunks")?);
    let mut times = Vec::new();
    for _ in 0..SEEKS {
        let start = Instant::now();
        let mut picture = command(&["picture", "--force", "--at", &format!("{:.3}", length / 2.0)]);
        picture.arg("--png").arg(lucid.file("middle.png")).arg(&recording);
        ask_well("showing a picture of a recording", &mut picture, b"")?;
        times.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    Ok(Sought { length, chunks, milliseconds: times[SEEKS / 2] })
}

/// The same work as in `scripts/bench rdp`, recorded and not, in turns.
fn session(project: &Project, steps: &Steps, rounds: u32, page: &mut String) -> Result<()> {
    let tools = build::trixie_tools(project, steps)?;
    let lucid = Lucid::prepare(project, steps, &tools, &[RECORDER, "lucidctl"])?;
    let key = lucid.file("owner.key");
    let made = said(lucid.program("lucidctl").args(["recording", "new-key", "--json"]).arg(&key))?;
    let owner =
        made["public"].as_str().ok_or_else(|| Error::talk("lucidctl", format!("no key in {made}")))?;
    let place = Place { project, tools: &tools, interrupt: &steps.interrupt };
    let dir = project.lucid.join("bench");
    let mut all: Vec<(String, Figures)> = Vec::new();
    let mut sought = None;
    // CPU of the recorder itself, and of the whole host that it belongs to.
    let (mut recorder, mut host_with_it) = (0.0, 0.0);
    for round in 1..=rounds {
        // Neither is always the one that finds everything warm.
        let turns = if round % 2 == 1 { [Some(owner), None] } else { [None, Some(owner)] };
        for owner in turns {
            let link = Link::new()?;
            let host = lucid.start(owner, &steps.interrupt)?;
            eprintln!("{}, round {round} of {rounds} ...", host.name);
            let plan = Plan::new(false, false, None);
            let figures = measure::host(&host, &link, None, &plan, place, Generation::Three, &dir)?;
            all.push((host.name.clone(), figures));
            let costs = (host.recorder_cost().cpu, host.cost().cpu);
            // With it the session ends, and its recording.
            drop(host);
            if owner.is_some() {
                recorder += costs.0;
                host_with_it += costs.1;
                sought = Some(seek(&lucid, &key)?);
            }
            steps.interrupt.check()?;
        }
    }
    // Of each work, and of all rounds: CPU, and frames that the client has shown.
    let sums = |recorded: bool| {
        let mut sums = [(0.0, 0.0); 5];
        for (_, figures) in all.iter().filter(|(name, _)| name.ends_with("recorded") == recorded) {
            for (sum, work) in sums.iter_mut().zip(figures.works()) {
                *sum = (sum.0 + work.cpu, sum.1 + f64::from(work.shown));
            }
        }
        sums
    };
    let (with, without) = (sums(true), sums(false));
    // A recorded session that shows less has not done the same work: as if both had shown the same frames.
    let plain: f64 = without.iter().map(|(cpu, _)| cpu).sum();
    let same: f64 = with.iter().zip(without).map(|((cpu, shown), (_, wanted))| cpu / shown * wanted).sum();
    let _ = writeln!(
        page,
        "\n## What recording costs a session\n\nThe work of `scripts/bench rdp` at 1920 by 1080; CPU of all processes of the \
         host, with the recorder's. For the frames that were shown not recorded in {plain:.1} s of CPU it takes {same:.1} s \
         recorded: **{:.1} % more** (goal 3). That is the difference of two large figures; of the processor time of such a \
         session from its start to its end {:.1} % are the recorder's own, without what handing frames over costs the host.\n",
        (same / plain - 1.0) * 100.0,
        recorder / host_with_it * 100.0
    );
    if let Some(Sought { length, chunks, milliseconds }) = sought {
        let _ = writeln!(
            page,
            "The picture in the middle of such a session ({length:.0} s, {chunks:.0} chunks) is there as a PNG \
             {milliseconds:.0} ms after `lucidctl recording picture --at` was started.\n"
        );
    }
    let _ = writeln!(page, "{}", table::rows(all.iter().map(|(name, figures)| (name, figures)), false));
    Ok(())
}
