//! Recordings, as files: `lucidctl recording`, and the verifier in Python that was written from the documentation of the
//! format, are held to each other and to what was done to thousands of recordings. Then sessions are recorded, on this machine
//! ([`host`]) and on the one in QEMU ([`qemu`]).

mod browser;
pub(super) mod host;
mod qemu;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};

use super::Context;
use crate::{
    build,
    client::Picture,
    error::{At, Error, Result},
    progress::{Answer, ask, ask_well, program},
    suite::Report,
};

/// Damaged recordings; the same ones in every run.
const DAMAGES: usize = 2000;
/// Every so many of them are verified with the owner's key as well.
const WITH_KEY: usize = 4;
/// So many directories are given to the verifier in Python at a time.
const BATCH: usize = 500;
/// From the checkout's root.
const GOLDEN: &str = "rust/lucid-recording/testdata/v1/recording";
/// The public key of the golden recording's device.
const DEVICE: &str = "6ee091fd280a9b68554fa73c588125d47d3425c68a26ba236b4dad90f90a8f92";
/// The secret key of the owner of every recording that is made for tests.
const OWNER: [u8; 32] = [0x0a; 32];
/// Records of the golden recording, and its chunks.
const RECORDS: u64 = 137;
const CHUNKS: u32 = 8;

/// Runs the suite.
pub(super) fn run(context: &Context, report: &mut Report) -> Result<()> {
    context.host()?;
    let tools = Tools::make(context)?;
    report.check("both verifiers prove the golden recording, with and without the owner's key", || {
        golden(&tools)
    });
    report
        .check("both verifiers name every damage where it is, and nothing else", || damages(context, &tools));
    report.check("a proof holds for its chunk and for nothing else", || proofs(&tools));
    report.check("after a rewrap the new key opens every record and the old one none", || rewrap(&tools));
    report.check("an exported film is what was recorded, as ffmpeg sees it", || film(context, &tools));
    browser::check(context, &tools, report);
    report.check("exit statuses tell wrong from unreadable and from wrong usage", || statuses(&tools));
    if report.wants("host") {
        host::check(context, &tools, report)?;
    }
    if report.wants("qemu") {
        qemu::run(context, &tools, report)?;
    }
    Ok(())
}

/// Both verifiers, and a place to work in.
pub(in crate::suites) struct Tools {
    pub(in crate::suites) lucidctl: PathBuf,
    python: PathBuf,
    script: PathBuf,
    golden: PathBuf,
    /// Emptied at the start.
    pub(in crate::suites) work: PathBuf,
    /// The owner's secret key.
    owner: PathBuf,
}

impl Tools {
    pub(in crate::suites) fn make(context: &Context) -> Result<Self> {
        let project = context.project;
        let work = project.lucid.join("recording");
        if work.exists() {
            fs::remove_dir_all(&work).at("emptying", &work)?;
        }
        fs::create_dir_all(&work).at("making", &work)?;
        let tools = Self {
            lucidctl: build::host_program(project, "lucidctl"),
            python: python(context)?,
            script: project.root.join("scripts/verify-recording/verify_recording.py"),
            golden: project.root.join(GOLDEN),
            owner: work.join("owner.key"),
            work,
        };
        let digits: String = OWNER.iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(&tools.owner, digits + "\n").at("writing", &tools.owner)?;
        ask_well("closing the key to others", Command::new("chmod").arg("600").arg(&tools.owner), b"")?;
        Ok(tools)
    }

    /// Makes an owner's key; gives its public half.
    pub(in crate::suites) fn owner_key(&self, file: &Path) -> Result<String> {
        let made = ends(self.lucidctl(["new-key", "--json"]).arg(file), 0)?;
        let made: Value = serde_json::from_slice(&made.out)
            .map_err(|error| Error::talk("lucidctl recording new-key", error))?;
        Ok(made["public"].as_str().unwrap_or_default().to_owned())
    }

    /// `lucidctl recording`.
    pub(in crate::suites) fn lucidctl<const N: usize>(&self, words: [&str; N]) -> Command {
        let mut command = Command::new(&self.lucidctl);
        command.arg("recording").args(words);
        command
    }

    /// What a recording shows at a time, without the pointer; the last picture, if no time is given.
    fn picture(&self, key: &Path, recording: &Path, at: Option<Duration>) -> Result<Picture> {
        let (png, ppm) = (self.work.join("shown.png"), self.work.join("shown.ppm"));
        let mut command = self.lucidctl(["picture", "--no-pointer", "--force", "--png"]);
        command.arg(&png).arg("--key").arg(key).arg(recording);
        if let Some(at) = at {
            command.arg("--at").arg(format!("{:.6}", at.as_secs_f64()));
        }
        ask_well("playing a recording", &mut command, b"")?;
        let mut convert = Command::new("convert");
        ask_well("reading a picture", convert.arg(&png).args(["-alpha", "off"]).arg(&ppm), b"")?;
        Picture::read_ppm(&ppm)
    }

    /// What both verifiers say of a recording.
    fn verify(&self, directories: &[PathBuf], options: &[&str]) -> Result<Vec<(Said, Said)>> {
        let mut theirs = Command::new(&self.python);
        theirs.arg(&self.script).arg("--json").args(options).args(directories);
        let answer = ask(&mut theirs, b"")?;
        let lines: Vec<Value> =
            answer.text().lines().map(serde_json::from_str).collect::<std::result::Result<_, _>>().map_err(
                |error| {
                    Error::talk("verify_recording.py", format!("{error}: {}{}", answer.text(), answer.err))
                },
            )?;
        if lines.len() != directories.len() {
            return Err(Error::talk(
                "verify_recording.py",
                format!("{} reports for {} directories: {}", lines.len(), directories.len(), answer.err),
            ));
        }
        let all_proved = lines.iter().all(|report| report["verdict"] == "sound");
        if answer.status.code() != Some(i32::from(!all_proved)) {
            return Err(Error::broken(format!("verify_recording.py ended with {}", answer.status)));
        }
        directories
            .iter()
            .zip(lines)
            .map(|(directory, line)| {
                let mut ours = self.lucidctl(["verify", "--json"]);
                let answer = ask(ours.args(options).arg(directory), b"")?;
                let report: Value = serde_json::from_slice(&answer.out).map_err(|error| {
                    Error::talk(program(&ours), format!("{error}: {}{}", answer.text(), answer.err))
                })?;
                if answer.status.code() != Some(i32::from(report["verdict"] != "sound")) {
                    return Err(Error::broken(format!("lucidctl ended with {} for {report}", answer.status)));
                }
                Ok((Said::new(report), Said::new(line)))
            })
            .collect()
    }
}

/// A Python with what the verifier needs, in an environment of its own, as its README tells strangers to make it.
fn python(context: &Context) -> Result<PathBuf> {
    let Context { project, steps, .. } = context;
    let venv = project.lucid.join("verify-recording");
    let python = venv.join("bin/python3");
    let requirements = project.root.join("scripts/verify-recording/requirements.txt");
    let wanted = fs::read_to_string(&requirements).at("reading", &requirements)?;
    let stamp = venv.join("lucid-pinned");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(python);
    }
    let mut make = project.command("/usr/bin/python3");
    ask_well("making a Python environment", make.args(["-m", "venv", "--clear"]).arg(&venv), b"")?;
    let mut install = project.command(&python.to_string_lossy());
    install.args(["-m", "pip", "install", "--disable-pip-version-check", "--only-binary=:all:"]);
    install.args(["--require-hashes", "--requirement"]).arg(&requirements);
    steps.run("installing what the verifier in Python needs", &mut install)?;
    fs::write(&stamp, wanted).at("writing", &stamp)?;
    Ok(python)
}

/// A report of a verification.
struct Said {
    report: Value,
    /// Files with their lines and records, sorted.
    places: Vec<(String, Option<u64>, Option<u64>)>,
}

impl Said {
    fn new(report: Value) -> Self {
        let findings = report["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut places: Vec<_> = findings
            .iter()
            .map(|finding| {
                let file = finding["file"].as_str().unwrap_or_default().to_owned();
                (file, finding["line"].as_u64(), finding["record"].as_u64())
            })
            .collect();
        places.sort();
        // Two keys that do not open are in the same file.
        places.dedup();
        Self { report, places }
    }

    /// The names of the files that are wrong.
    fn files(&self) -> Vec<&str> {
        let mut files: Vec<&str> = self.places.iter().map(|(file, ..)| file.as_str()).collect();
        files.dedup();
        files
    }

    /// Everything but the words for people, which each has its own.
    fn facts(&self) -> Value {
        let mut facts = self.report.clone();
        if let Some(facts) = facts.as_object_mut() {
            facts.remove("notes");
            // Where neither a manifest nor any head holds, nothing says when it ended: one has 0 then, the other null.
            if facts["heads"] == 0 && facts["ended"].is_null() {
                facts.remove("ended_ms");
            }
            facts.insert("findings".to_owned(), json!(self.places));
        }
        facts
    }
}

/// An error unless both say the same.
fn agree(what: &str, ours: &Said, theirs: &Said) -> Result<()> {
    if ours.facts() == theirs.facts() {
        return Ok(());
    }
    Err(Error::broken(format!(
        "{what}: the verifiers do not agree\nlucidctl            {}\nverify_recording.py {}",
        ours.report, theirs.report
    )))
}

fn must<T: PartialEq + std::fmt::Debug>(what: &str, found: T, wanted: T) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    Err(Error::broken(format!("{what}: {found:?} instead of {wanted:?}")))
}

fn golden(tools: &Tools) -> Result<String> {
    let one = [tools.golden.clone()];
    let key = tools.owner.to_string_lossy();
    for (what, options) in [
        ("without a key", &["--device", DEVICE][..]),
        ("with the owner's key", &["--key", &key, "--device", DEVICE][..]),
    ] {
        for (ours, theirs) in tools.verify(&one, options)? {
            agree(what, &ours, &theirs)?;
            must(what, &ours.report["verdict"], &json!("sound"))?;
            must(what, &ours.report["chunks"]["proved"], &json!(CHUNKS))?;
            if options.contains(&"--key") {
                must(what, &ours.report["opened"]["records"], &json!(RECORDS))?;
            }
        }
    }
    Ok(format!("{RECORDS} records in {CHUNKS} chunks"))
}

fn damages(context: &Context, tools: &Tools) -> Result<String> {
    let dir = tools.work.join("damaged");
    let mut make =
        context.project.command(&context.project.target.join("debug/examples/damage").to_string_lossy());
    ask_well("damaging recordings", make.arg(&dir).arg(DAMAGES.to_string()), b"")?;
    let list = dir.join("expected.jsonl");
    let text = fs::read_to_string(&list).at("reading", &list)?;
    let expected: Vec<Value> = text
        .lines()
        .map(serde_json::from_str)
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| Error::talk("the generator of damages", error))?;
    if expected.len() <= DAMAGES {
        return Err(Error::broken(format!("{} damages were made, not {DAMAGES}", expected.len())));
    }
    let key = tools.owner.to_string_lossy();
    let (mut found, mut opened) = (0, 0);
    for device in [None, Some(DEVICE)] {
        let these: Vec<&Value> = expected.iter().filter(|one| one["device"].as_str() == device).collect();
        if these.is_empty() {
            return Err(Error::broken(format!("no damage is to be verified with the device {device:?}")));
        }
        let mut options: Vec<&str> = device.map(|key| vec!["--device", key]).unwrap_or_default();
        for batch in these.chunks(BATCH) {
            context.steps.interrupt.check()?;
            found += compare(tools, &dir, batch, &options)?;
        }
        options.extend(["--key", &key]);
        let some: Vec<&Value> = these.iter().copied().step_by(WITH_KEY).collect();
        for batch in some.chunks(BATCH) {
            context.steps.interrupt.check()?;
            opened += compare(tools, &dir, batch, &options)?;
        }
    }
    fs::remove_dir_all(&dir).at("emptying", &dir)?;
    Ok(format!("{} recordings, {found} with something wrong; {opened} of those with the key", expected.len()))
}

/// Holds both verifiers to what is expected; gives how many recordings are wrong.
fn compare(tools: &Tools, dir: &Path, batch: &[&Value], options: &[&str]) -> Result<usize> {
    let name = |one: &Value| one["name"].as_str().unwrap_or_default().to_owned();
    let directories: Vec<PathBuf> = batch.iter().map(|one| dir.join(name(one))).collect();
    let mut wrong = 0;
    for (expected, (ours, theirs)) in batch.iter().zip(tools.verify(&directories, options)?) {
        let what = format!("{}, {}", name(expected), expected["what"].as_str().unwrap_or_default());
        agree(&what, &ours, &theirs)?;
        let files: Vec<&str> =
            expected["files"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        match expected["verdict"].as_str() {
            // Only some key shows it.
            Some("any") => {
                if !ours.files().iter().all(|file| files.contains(file)) {
                    must(&what, ours.files(), files)?;
                }
            }
            verdict => {
                must(&what, ours.report["verdict"].as_str(), verdict)?;
                must(&what, ours.files(), files)?;
            }
        }
        wrong += usize::from(!ours.places.is_empty());
    }
    Ok(wrong)
}

/// An error unless the program ended with that status.
fn ends(command: &mut Command, status: i32) -> Result<Answer> {
    let answer = ask(command, b"")?;
    if answer.status.code() == Some(status) {
        return Ok(answer);
    }
    Err(Error::broken(format!(
        "{} ended with {} and not with {status}: {}{}",
        program(command),
        answer.status,
        answer.text(),
        answer.err
    )))
}

fn proofs(tools: &Tools) -> Result<String> {
    let proof = tools.work.join("proof.json");
    let moved = tools.work.join("moved");
    let chunk = |index: u32| tools.golden.join(format!("chunk-{index:06}"));
    let check = |chunk: &Path, device: &str| {
        let mut command = tools.lucidctl(["check-proof"]);
        command.arg(&proof).arg(chunk);
        if !device.is_empty() {
            command.args(["--device", device]);
        }
        command
    };
    let write = |bytes: &[u8]| fs::write(&proof, bytes).at("writing", &proof);
    let mut size = 0;
    for index in 0..CHUNKS {
        let number = index.to_string();
        let made = ends(tools.lucidctl(["prove", "--chunk", &number]).arg(&tools.golden), 0)?.out;
        write(&made)?;
        size = size.max(made.len());
        ends(&mut check(&chunk(index), DEVICE), 0)?;
        // The opening beside it names the device.
        ends(&mut check(&chunk(index), ""), 0)?;
        ends(&mut check(&chunk((index + 1) % CHUNKS), DEVICE), 1)?;
        let mut bytes = fs::read(chunk(index)).at("reading", chunk(index))?;
        fs::write(&moved, &bytes).at("writing", &moved)?;
        ends(&mut check(&moved, DEVICE), 0)?;
        ends(&mut check(&moved, ""), 2)?;
        if let Some(last) = bytes.last_mut() {
            *last ^= 1;
        }
        fs::write(&moved, &bytes).at("writing", &moved)?;
        ends(&mut check(&moved, DEVICE), 1)?;
        ends(&mut check(&chunk(index), &"5a".repeat(32)), 1)?;
        for at in (0..made.len()).step_by(made.len() / 20) {
            let mut changed = made.clone();
            changed[at] ^= 1;
            write(&changed)?;
            ends(&mut check(&chunk(index), DEVICE), 1)?;
        }
    }
    ends(tools.lucidctl(["prove", "--chunk", &CHUNKS.to_string()]).arg(&tools.golden), 1)?;
    Ok(format!("{CHUNKS} chunks, proofs of at most {size} bytes"))
}

fn rewrap(tools: &Tools) -> Result<String> {
    let copy = tools.work.join("rewrapped");
    let mut cp = Command::new("cp");
    ask_well("copying the golden recording", cp.arg("-r").arg(&tools.golden).arg(&copy), b"")?;
    let new = tools.work.join("new.key");
    let public = tools.owner_key(&new)?;
    let secret = fs::read(&new).at("reading", &new)?;
    ends(tools.lucidctl(["new-key"]).arg(&new), 1)?;
    must("a key that is there already", fs::read(&new).at("reading", &new)?, secret)?;

    let rewrap = |with: &Path, to: &str| {
        let mut command = tools.lucidctl(["rewrap", "--to", to, "--key"]);
        command.arg(with).arg(&copy);
        command
    };
    // Only who can open it can do it.
    ends(&mut rewrap(&new, &public), 1)?;
    ends(&mut rewrap(&tools.owner, &public), 0)?;
    let copies = [copy.clone()];
    for (ours, theirs) in tools.verify(&copies, &["--key", &new.to_string_lossy()])? {
        agree("with the new key", &ours, &theirs)?;
        must("with the new key", &ours.report["verdict"], &json!("sound"))?;
        must("with the new key", &ours.report["opened"]["records"], &json!(RECORDS))?;
    }
    for (ours, theirs) in tools.verify(&copies, &["--key", &tools.owner.to_string_lossy()])? {
        must("lucidctl with the old key", ours.files(), vec!["keys.json"])?;
        must("verify_recording.py with the old key", theirs.files(), vec!["keys.json"])?;
        for said in [ours, theirs] {
            must("with the old key", &said.report["opened"]["records"], &json!(0))?;
        }
    }
    let mut same = 0;
    for entry in fs::read_dir(&tools.golden).at("reading", &tools.golden)? {
        let name = entry.at("reading", &tools.golden)?.file_name();
        let read = |dir: &Path| fs::read(dir.join(&name)).at("reading", dir.join(&name));
        if name != "keys.json" {
            must(&name.to_string_lossy(), read(&copy)? == read(&tools.golden)?, true)?;
            same += 1;
        }
    }
    Ok(format!("{same} files untouched"))
}

/// Length of the recording whose pictures are known, in seconds; the example `session` of `lucid-replay` says what it shows.
const FILM: u64 = 20;
/// Size of its pictures.
const FILM_SIZE: (usize, usize) = (640, 480);

/// Makes that recording below a directory.
fn session(context: &Context, parent: &Path) -> Result<PathBuf> {
    let project = context.project;
    let mut make = project.command(&project.target.join("debug/examples/session").to_string_lossy());
    make.arg(parent).arg(FILM.to_string());
    Ok(PathBuf::from(ask_well("recording a session", &mut make, b"")?.text().trim()))
}

fn film(context: &Context, tools: &Tools) -> Result<String> {
    let recording = session(context, &tools.work.join("sessions"))?;
    let file = |name: &str| tools.work.join(name);
    let (film, events, subtitles) = (file("film.mp4"), file("film.jsonl"), file("film.vtt"));
    let export = |device: &str| {
        let mut command = tools.lucidctl(["export", "--json", "--force", "--device", device, "--key"]);
        command.arg(&tools.owner).arg("--mp4").arg(&film).arg("--events").arg(&events);
        command.arg("--subtitles").arg(&subtitles).arg(&recording);
        command
    };
    // By another device it is not.
    ends(&mut export(DEVICE), 1)?;
    must("what is there after an export that failed", film.exists(), false)?;
    let opening = recording.join("opening.json");
    let text = fs::read(&opening).at("reading", &opening)?;
    let opening: Value = serde_json::from_slice(&text).map_err(|error| Error::talk("opening.json", error))?;
    let device = opening["body"]["device"].as_str().unwrap_or_default();
    let said = ends(&mut export(device), 0)?.out;
    let said: Value =
        serde_json::from_slice(&said).map_err(|error| Error::talk("lucidctl recording export", error))?;
    must("the export's verdict", &said["verdict"], &json!("sound"))?;

    let mut probe = Command::new("ffprobe");
    probe.args(["-v", "error", "-of", "json", "-show_streams", "-show_format"]).arg(&film);
    let about = ask_well("asking ffprobe", &mut probe, b"")?;
    let about: Value = serde_json::from_slice(&about.out).map_err(|error| Error::talk("ffprobe", error))?;
    let seconds = |value: &Value| value.as_str().and_then(|text| text.parse::<f64>().ok()).unwrap_or(-1.0);
    must("the film's length", seconds(&about["format"]["duration"]), FILM as f64)?;
    let (video, sound) = (&about["streams"][0], &about["streams"][1]);
    let size = json!([video["width"], video["height"]]);
    must("the film's pictures", (&video["codec_name"], size), (&json!("h264"), json!([640, 480])))?;
    must("the film's sound", &sound["codec_name"], &json!("opus"))?;

    for (at, colour, pointer) in [
        (5.3, Some([80, 175, 128]), (205, 300)),
        (8.5, None, (0, 0)),
        (19.9, Some([48, 207, 128]), (219, 300)),
    ] {
        let picture = shown(&film, at)?;
        let near = |(x, y): (usize, usize), wanted: [u8; 3]| {
            let place = (y * FILM_SIZE.0 + x) * 3;
            let found = picture.get(place..place + 3).unwrap_or_default();
            if found.len() == 3 && found.iter().zip(wanted).all(|(found, wanted)| found.abs_diff(wanted) <= 6)
            {
                return Ok(());
            }
            Err(Error::broken(format!("at {at} s, ({x}, {y}) is {found:?} and not {wanted:?}")))
        };
        match colour {
            Some(colour) => {
                near((64, 64), colour)?;
                near((pointer.0 + 4, pointer.1 + 4), [255, 0, 0])?;
                near((400, 400), [40, 60, 80])?;
            }
            // The ground on which it says that nothing was recorded.
            None => near((64, 64), [32, 38, 48])?,
        }
    }
    let lines = fs::read_to_string(&events).at("reading", &events)?;
    must("events", json!(lines.lines().count()), said["events"].clone())?;
    let text = fs::read_to_string(&subtitles).at("reading", &subtitles)?;
    for line in
        ["00:00:00.500 --> 00:00:04.500\nfocus: foot — ~/notes\n", "not recorded: from 0:08.0 to 0:09.0"]
    {
        must(line, text.contains(line), true)?;
    }
    Ok(format!("{} pictures, {} events, {} bytes", said["pictures_encoded"], said["events"], said["bytes"]))
}

/// The picture that a player shows at a moment: the last one that came before. Red, green, blue.
fn shown(film: &Path, seconds: f64) -> Result<Vec<u8>> {
    let mut decode = Command::new("ffmpeg");
    decode.args(["-v", "error", "-nostdin", "-i"]).arg(film);
    decode.args(["-vf", &format!("select=lte(t\\,{seconds})"), "-vsync", "0"]);
    let mut pictures =
        ask_well("decoding the film", decode.args(["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]), b"")?.out;
    let one = FILM_SIZE.0 * FILM_SIZE.1 * 3;
    let before = pictures.len().saturating_sub(one);
    Ok(pictures.split_off(before))
}

fn statuses(tools: &Tools) -> Result<String> {
    let empty = tools.work.join("empty");
    fs::create_dir_all(&empty).at("making", &empty)?;
    let cut = tools.work.join("cut");
    let mut cp = Command::new("cp");
    ask_well("copying the golden recording", cp.arg("-r").arg(&tools.golden).arg(&cut), b"")?;
    let manifest = cut.join("manifest.json");
    fs::remove_file(&manifest).at("removing", &manifest)?;
    let missing = tools.work.join("missing");
    let mut count = 0;
    let both: [(&[&str], &Path, i32); 6] = [
        (&[], &tools.golden, 0),
        (&["--device", DEVICE], &tools.golden, 0),
        // What is there is good, and its end is missing.
        (&[], &cut, 1),
        (&[], &empty, 6),
        (&[], &missing, 6),
        (&["--device", "6ee0"], &tools.golden, 2),
    ];
    for (options, directory, status) in both {
        ends(tools.lucidctl(["verify"]).args(options).arg(directory), status)?;
        let mut theirs = Command::new(&tools.python);
        ends(theirs.arg(&tools.script).args(options).arg(directory), status)?;
        count += 2;
    }
    let key = missing.to_string_lossy();
    let ours: [(&[&str], &Path, i32); 8] = [
        (&["show"], &tools.golden, 0),
        (&["show"], &empty, 6),
        (&["list"], &tools.work, 0),
        (&["list"], &missing, 6),
        (&["verify", "--key", &key], &tools.golden, 6),
        (&["prove"], &tools.golden, 2),
        (&["prove", "--chunk", "0"], &empty, 6),
        (&["rewrap", "--key", &key], &tools.golden, 2),
    ];
    for (words, directory, status) in ours {
        ends(tools.lucidctl([]).args(words).arg(directory), status)?;
        count += 1;
    }
    Ok(format!("{count} calls"))
}
