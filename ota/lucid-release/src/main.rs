//! `lucid-release`: makes, signs and publishes releases. Exit status: see [`EXIT`].

use std::cell::Cell;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use jiff::Timestamp as Time;
use lucid_release::contents::{Checked, FILE};
use lucid_release::draft::{self, Addition, PatchFrom, PatchTried, Rotation};
use lucid_release::folder::{Days, Folder};
use lucid_release::key::{KeyId, PublicKey, SecretKey, key_id};
use lucid_release::publish::{self, Keys};
use lucid_release::setup::{self, Setup, Wanted};
use lucid_release::sign::Paper;
use lucid_release::{Error, Result, ask, inspect};
use lucid_release_format::build::LEVEL;
use lucid_release_format::{Name, Version, Wave};
use serde::Serialize;
use tough::schema::RoleType;

/// Stands at the end of the help.
const EXIT: &str = "Exit status: 0 done, 1 failed, 2 wrong usage.";
/// How often what takes long says how far it is.
const SHOWN: Duration = Duration::from_secs(2);

/// Makes, signs and publishes releases.
#[derive(Parser)]
#[command(name = "lucid-release", version, after_help = EXIT)]
struct Arguments {
    /// Prints JSON with stable fields instead of text.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a folder of releases: keys, where holders have none yet, and the first root.
    Init(Init),
    /// Keys: each holder makes his own, and sends the public half.
    #[command(subcommand)]
    Key(Key),
    /// Makes a release of a disk image, and a draft that lists it.
    Add(Add),
    /// A draft without a release: no device takes it up any more.
    Withdraw(Which),
    /// A draft in which nobody takes up a release for now.
    Pause(Which),
    /// A draft in which a paused release goes on.
    Resume(Which),
    /// A draft with the same releases, which holds longer.
    Renew {
        #[command(flatten)]
        place: Place,
    },
    /// Shows what a file says, asks, and adds a signature.
    Sign {
        /// A root or targets.
        file: PathBuf,
        /// The key that signs.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// The folder with the roots, if it is not the file's own.
        #[arg(long, value_name = "DIR")]
        roots: Option<PathBuf>,
        /// Does not ask.
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        open: Open,
    },
    /// Brings the signatures of other copies of a file into it.
    Merge {
        /// The file.
        file: PathBuf,
        /// Copies that others have signed.
        #[arg(required = true)]
        others: Vec<PathBuf>,
        /// The folder with the roots, if it is not the file's own.
        #[arg(long, value_name = "DIR")]
        roots: Option<PathBuf>,
    },
    /// Checks all that was signed as a device would, and writes it into the folder of a web server.
    Publish(Publish),
    /// Publishes once more what was published last, so that it holds longer.
    Refresh(Publish),
    /// A draft of the next root: other keys, other thresholds, or the same for longer.
    RotateRoot {
        /// The folder of releases.
        folder: PathBuf,
        /// The role that gets the new keys or the threshold.
        #[arg(long, value_enum, default_value = "root")]
        role: Role,
        /// Public halves of new keys.
        #[arg(long, value_name = "HEX", num_args = 1..)]
        add: Vec<PublicKey>,
        /// Keys that go: their ids or their public halves, as `inspect` shows them.
        #[arg(long, value_name = "ID", num_args = 1.., value_parser = key_id)]
        remove: Vec<KeyId>,
        /// How many have to sign from then on.
        #[arg(long, value_name = "NUMBER")]
        threshold: Option<u64>,
        /// How many days it holds; otherwise what the folder's settings say.
        #[arg(long)]
        days: Option<u32>,
    },
    /// Shows what a folder of releases, a web folder or a file says, and who has signed.
    Inspect {
        /// The folder or file.
        path: PathBuf,
    },
    /// Loads a web folder as a device would, and reads every release to its last byte.
    Verify {
        /// The web folder.
        web: PathBuf,
        /// The root that the device has.
        #[arg(long, value_name = "FILE")]
        root: PathBuf,
    },
    /// Prints completions for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Writes manual pages into a directory.
    Man {
        /// Where; it must exist.
        directory: PathBuf,
    },
}

/// How a key's file is opened.
#[derive(Args)]
struct Open {
    /// A file whose first line is the passphrase; otherwise it is asked for.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// Which folder is meant.
#[derive(Args)]
struct Place {
    /// The folder of releases.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
}

#[derive(Args)]
struct Init {
    /// The folder, in which there is no other yet.
    folder: PathBuf,
    /// How many keys roots have.
    #[arg(long, default_value = "5")]
    root_keys: usize,
    /// How many of them have to sign.
    #[arg(long, default_value = "3")]
    root_threshold: u64,
    /// Public halves of those that holders made; the others are made here.
    #[arg(long, value_name = "HEX", num_args = 1..)]
    root_public: Vec<PublicKey>,
    /// How many keys targets have.
    #[arg(long, default_value = "3")]
    targets_keys: usize,
    /// How many of them have to sign.
    #[arg(long, default_value = "2")]
    targets_threshold: u64,
    /// Public halves of those that holders made; the others are made here.
    #[arg(long, value_name = "HEX", num_args = 1..)]
    targets_public: Vec<PublicKey>,
    /// The public half of the key for snapshots, if it was made already.
    #[arg(long, value_name = "HEX")]
    snapshot_public: Option<PublicKey>,
    /// The public half of the key for timestamps, if it was made already.
    #[arg(long, value_name = "HEX")]
    timestamp_public: Option<PublicKey>,
    /// How many days a root holds.
    #[arg(long, default_value_t = Days::default().root)]
    days_root: u32,
    /// How many days a list of releases holds.
    #[arg(long, default_value_t = Days::default().targets)]
    days_targets: u32,
    /// How many days a snapshot holds.
    #[arg(long, default_value_t = Days::default().snapshot)]
    days_snapshot: u32,
    /// How many days a timestamp holds: so long can a device be kept from hearing of a newer release.
    #[arg(long, default_value_t = Days::default().timestamp)]
    days_timestamp: u32,
    /// Marks the root as one whose keys nobody guards: only an image that was built with it takes it.
    #[arg(long)]
    development: bool,
    #[command(flatten)]
    open: Open,
}

#[derive(Subcommand)]
enum Key {
    /// Makes a key, and prints its public half.
    New {
        /// Its file, which must not be there yet.
        file: PathBuf,
        #[command(flatten)]
        open: Open,
    },
    /// Prints the public half of a key, and its id.
    Show {
        /// Its file.
        file: PathBuf,
    },
}

#[derive(Args)]
struct Add {
    /// The disk image.
    image: PathBuf,
    /// The kind of device that it is for.
    #[arg(long)]
    machine: Name,
    /// Its version, such as 1.2.3.
    #[arg(long)]
    version: Version,
    /// Which devices follow it.
    #[arg(long, default_value = "stable")]
    channel: Name,
    /// What a device never goes below, once it runs this release.
    #[arg(long, value_name = "VERSION", default_value = "0.0.0")]
    min_version: Version,
    /// What a device has to run at least, to take it.
    #[arg(long, value_name = "VERSION", default_value = "0.0.0")]
    min_from: Version,
    /// From when on how many of 1000 devices may take it, such as 0:100, 12h:500, 3d:1000. May be given more than once; all
    /// at once without.
    #[arg(long = "wave", value_name = "AFTER:SHARE", value_parser = draft::wave)]
    waves: Vec<Wave>,
    /// Makes a patch from this version, whose files are in the folder, or from its image; may be given more than once. It is kept
    /// where it is smaller than the chunks that a device would fetch. Without this, from the newest version in the folder.
    #[arg(long, value_name = "VERSION[=IMAGE]", value_parser = draft::patch_from)]
    patch_from: Vec<PatchFrom>,
    /// Makes no patch.
    #[arg(long, conflicts_with = "patch_from")]
    no_patch: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
struct Which {
    /// The version.
    version: Version,
    /// For this kind of device alone.
    #[arg(long)]
    machine: Option<Name>,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
struct Publish {
    /// The folder of releases.
    folder: PathBuf,
    /// The folder that a web server gives out.
    #[arg(long, value_name = "WEB")]
    to: PathBuf,
    /// The key for snapshots.
    #[arg(long, value_name = "FILE", required = true)]
    snapshot_key: Vec<PathBuf>,
    /// The key for timestamps.
    #[arg(long, value_name = "FILE", required = true)]
    timestamp_key: Vec<PathBuf>,
    #[command(flatten)]
    open: Open,
}

#[derive(Clone, Copy, ValueEnum)]
enum Role {
    Root,
    Targets,
    Snapshot,
    Timestamp,
}

impl From<Role> for RoleType {
    fn from(role: Role) -> Self {
        match role {
            Role::Root => Self::Root,
            Role::Targets => Self::Targets,
            Role::Snapshot => Self::Snapshot,
            Role::Timestamp => Self::Timestamp,
        }
    }
}

/// `key new --json`, `key show --json`; `init --json` has an array of these.
#[derive(Serialize)]
struct KeyMade {
    file: String,
    public: String,
    id: String,
}

/// `init --json`
#[derive(Serialize)]
struct FolderMade {
    root: String,
    keys: Vec<KeyMade>,
}

/// `sign --json`, `merge --json`
#[derive(Serialize)]
struct Gathered {
    file: String,
    new: usize,
    signatures: Vec<Standing>,
}

/// How far a file is for one root.
#[derive(Serialize)]
struct Standing {
    root: u64,
    threshold: u64,
    have: usize,
    enough: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.command, arguments.json) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has heard enough.
        Err(Error::File { source, .. }) if source.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lucid-release: {error}");
            ExitCode::from(if error.is_usage() { 2 } else { 1 })
        }
    }
}

fn run(command: Command, json: bool) -> Result<()> {
    let now = Time::now();
    match command {
        Command::Init(arguments) => init(&arguments, now, json),
        Command::Key(Key::New { file, open }) => {
            let passphrase = ask::new_passphrase(open.passphrase_file.as_deref())?;
            let key = SecretKey::create(&file, &passphrase)?;
            key_words(&file, key.public(), json)
        }
        Command::Key(Key::Show { file }) => key_words(&file, SecretKey::public_of(&file)?, json),
        Command::Add(arguments) => add(&arguments, now, json),
        Command::Withdraw(Which { version, machine, place }) => {
            let folder = Folder::open(&place.dir)?;
            drafted(&draft::withdraw(&folder, version, machine.as_ref(), now)?.path, now, json)
        }
        Command::Pause(which) => pause(&which, true, now, json),
        Command::Resume(which) => pause(&which, false, now, json),
        Command::Renew { place } => drafted(&draft::renew(&Folder::open(&place.dir)?, now)?.path, now, json),
        Command::Sign { file, key, roots, yes, open } => {
            let mut paper = Paper::open(&file, roots.as_deref())?;
            // Before anybody reads all of it and types a passphrase for nothing.
            paper.allows(SecretKey::public_of(&key)?)?;
            // What is agreed to is read, whoever else reads the output.
            eprint!("{}", paper.words(now)?);
            if !yes && !ask::agrees("Sign this? Write yes: ")? {
                return Err(Error::Declined);
            }
            let passphrase = ask::passphrase(open.passphrase_file.as_deref(), &key)?;
            let new = paper.sign(&SecretKey::open(&key, &passphrase)?)?;
            gathered(&file, &paper, usize::from(new), json)
        }
        Command::Merge { file, others, roots } => {
            let mut paper = Paper::open(&file, roots.as_deref())?;
            let new = paper.merge(&others)?;
            gathered(&file, &paper, new, json)
        }
        Command::Publish(arguments) => published(&arguments, publish::publish, now, json),
        Command::Refresh(arguments) => published(&arguments, publish::refresh, now, json),
        Command::RotateRoot { folder, role, add, remove, threshold, days } => {
            let folder = Folder::open(&folder)?;
            let mut all_days = folder.days();
            all_days.root = days.unwrap_or(all_days.root);
            let rotation = Rotation { role: role.into(), add, remove, threshold, days: all_days };
            drafted(&draft::rotate_root(&folder, &rotation, now)?.path, now, json)
        }
        Command::Inspect { path } => {
            no_address(&path)?;
            drafted(&path, now, json)
        }
        Command::Verify { web, root } => {
            no_address(&web)?;
            let versions = publish::verify(&web, &root, &|text| eprintln!("{text}"))?;
            let lines = versions.iter().map(|(role, version)| format!("{role} {version}\n"));
            let text = format!("a device that knows {} takes all of it\n", root.display());
            show(&versions, &(text + &lines.collect::<String>()), json)
        }
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "lucid-release", &mut text);
            print(&String::from_utf8_lossy(&text))
        }
        Command::Man { directory } => manual(&directory),
    }
}

fn init(arguments: &Init, now: Time, json: bool) -> Result<()> {
    let role = |given: &[PublicKey], count, threshold| Wanted { given: given.to_vec(), count, threshold };
    let setup = Setup {
        roles: [
            role(&arguments.root_public, arguments.root_keys, arguments.root_threshold),
            role(&arguments.targets_public, arguments.targets_keys, arguments.targets_threshold),
            role(arguments.snapshot_public.as_slice(), 1, 1),
            role(arguments.timestamp_public.as_slice(), 1, 1),
        ],
        days: Days {
            root: arguments.days_root,
            targets: arguments.days_targets,
            snapshot: arguments.days_snapshot,
            timestamp: arguments.days_timestamp,
        },
        development: arguments.development,
    };
    // Said before somebody types a passphrase, and once more where it is seen: for a mistake this looks too much like success.
    let made_here = setup.made_here();
    let warn = |verb: &str| {
        for (role, missing, count) in &made_here {
            eprintln!(
                "WARNING: {missing} of the {count} {role} keys {verb} made here, as no public half was named for them: whoever \
                 has this machine has them. Name those of all holders with --{role}-public, or fewer keys with --{role}-keys."
            );
        }
    };
    warn("will be");
    let passphrase = || ask::new_passphrase(arguments.open.passphrase_file.as_deref());
    let made = setup::init(&arguments.folder, &setup, &passphrase, now, &|text| eprintln!("{text}"))?;
    let mut keys = Vec::new();
    for (file, public) in &made.keys {
        keys.push(key_made(file, *public)?);
    }
    let root = made.root.path.display().to_string();
    let mut text = String::new();
    for key in &keys {
        text += &format!("{}  {}\n", key.public, key.file);
    }
    text += &inspect::inspect(&made.root.path, now)?.words();
    show(&FolderMade { root, keys }, &text, json)?;
    warn("were");
    Ok(())
}

fn key_made(file: &Path, public: PublicKey) -> Result<KeyMade> {
    let id = hex::encode(public.id()?);
    Ok(KeyMade { file: file.display().to_string(), public: public.to_string(), id })
}

fn key_words(file: &Path, public: PublicKey, json: bool) -> Result<()> {
    let key = key_made(file, public)?;
    show(&key, &format!("{}\nid {}\n", key.public, key.id), json)
}

fn add(arguments: &Add, now: Time, json: bool) -> Result<()> {
    let folder = Folder::open(&arguments.place.dir)?;
    let patch_from = if arguments.no_patch || !arguments.patch_from.is_empty() {
        arguments.patch_from.clone()
    } else {
        let newest = draft::newest_before(&folder, &arguments.machine, arguments.version)?;
        newest.map(PatchFrom::Release).into_iter().collect()
    };
    let addition = Addition {
        image: &arguments.image,
        machine: arguments.machine.clone(),
        version: arguments.version,
        channel: arguments.channel.clone(),
        min_version: arguments.min_version,
        min_from: arguments.min_from,
        waves: arguments.waves.clone(),
        patch_from,
        level: LEVEL,
    };
    let said = Cell::new(Instant::now());
    let tell = |what: &str, done: u64, all: u64| {
        if said.get().elapsed() >= SHOWN {
            said.set(Instant::now());
            eprintln!("{what} {} of {} MiB", done >> 20, all >> 20);
        }
    };
    let added = draft::add(&folder, &addition, now, &tell)?;
    for tried in &added.patches {
        let PatchTried { from, bytes, chunks } = tried;
        match bytes {
            Some(bytes) if tried.is_taken() => {
                eprintln!(
                    "the patch from {from} has {bytes} bytes; without it a device fetches {chunks} of the archive"
                );
            }
            Some(bytes) => eprintln!(
                "no patch from {from}: it would have {bytes} bytes, and a device fetches {chunks} of the archive"
            ),
            None => eprintln!("no patch from {from}: the release has nothing that {from} does not have"),
        }
    }
    drafted(&added.held.path, now, json)?;
    // Last, so that it is seen.
    let (image, version, machine) = (arguments.image.display(), arguments.version, &arguments.machine);
    match added.checked {
        Checked::All => {}
        Checked::ButRoot => eprintln!(
            "WARNING: {FILE} beside {image} does not say which root of releases it holds, as an older image tool wrote it: that a \
             device with it takes what is signed here is taken for true."
        ),
        Checked::Nothing => eprintln!(
            "WARNING: no {FILE} beside {image} says what it is: that it is {version} for {machine}, and holds a root of this \
             folder, is taken for true."
        ),
    }
    Ok(())
}

fn pause(which: &Which, paused: bool, now: Time, json: bool) -> Result<()> {
    let folder = Folder::open(&which.place.dir)?;
    let held = draft::pause(&folder, which.version, which.machine.as_ref(), paused, now)?;
    drafted(&held.path, now, json)
}

/// Shows a file, or what is in a folder.
fn drafted(path: &Path, now: Time, json: bool) -> Result<()> {
    let report = inspect::inspect(path, now)?;
    show(&report, &report.words(), json)
}

fn gathered(file: &Path, paper: &Paper, new: usize, json: bool) -> Result<()> {
    let mut text = match new {
        0 => "nothing new: these signatures were there\n".to_owned(),
        1 => "one signature more\n".to_owned(),
        new => format!("{new} signatures more\n"),
    };
    let mut signatures = Vec::new();
    for standing in paper.standing()? {
        let (root, threshold, have) = (standing.root, standing.threshold, standing.by.len());
        text += &format!("{have} of the {threshold} that root {root} asks for\n");
        signatures.push(Standing { root, threshold, have, enough: standing.is_enough() });
    }
    show(&Gathered { file: file.display().to_string(), new, signatures }, &text, json)
}

/// [`publish::publish`] or [`publish::refresh`].
type Publishes = fn(&Folder, &Path, &Keys<'_>, Time, &dyn Fn(&str)) -> Result<publish::Done>;

fn published(arguments: &Publish, does: Publishes, now: Time, json: bool) -> Result<()> {
    no_address(&arguments.to)?;
    let folder = Folder::open(&arguments.folder)?;
    let open = |files: &[PathBuf]| -> Result<Vec<SecretKey>> {
        let file = arguments.open.passphrase_file.as_deref();
        files.iter().map(|key| SecretKey::open(key, &ask::passphrase(file, key)?)).collect()
    };
    let (snapshot, timestamp) = (open(&arguments.snapshot_key)?, open(&arguments.timestamp_key)?);
    let keys = Keys { snapshot: &snapshot, timestamp: &timestamp };
    let done = does(&folder, &arguments.to, &keys, now, &|text| eprintln!("{text}"))?;
    let text = format!(
        "published: root {}, targets {}, snapshot {}, timestamp {}; {} files written\n\
         current until {}: before then, `lucid-release refresh`\n",
        done.root, done.targets, done.snapshot, done.timestamp, done.files, done.until
    );
    show(&done, &text, json)?;
    // Not a failure: all else was published as asked, and while people sign the next root the timer's `refresh` has to go on. But
    // whoever waits for that root has to see it, so it comes last.
    if let Some(waiting) = &done.waiting {
        let lacks: Vec<_> = waiting.lacks.iter().map(lack_words).collect();
        eprintln!(
            "WARNING: root {} was NOT published, and devices go on with root {}: {} has {}.\n\
             WARNING: let others sign it, `lucid-release merge`, and publish again.",
            waiting.version,
            done.root,
            waiting.file,
            lacks.join(" and ")
        );
    }
    Ok(())
}

fn lack_words(lack: &publish::Lack) -> String {
    format!("{} of the {} signatures that root {} asks for", lack.have, lack.threshold, lack.root)
}

/// Refuses what names a machine and no folder, before a folder of that name is looked for or made.
fn no_address(path: &Path) -> Result<()> {
    if !path.to_string_lossy().contains("://") {
        return Ok(());
    }
    Err(Error::Arguments(format!(
        "{} is an address, and a folder is needed: this program uses no network; copy the folder here, or run it where it is",
        path.display()
    )))
}

fn show(value: &impl Serialize, text: &str, json: bool) -> Result<()> {
    if !json {
        return print(text);
    }
    let line = serde_json::to_string(value).map_err(|source| Error::Json { what: "the output", source })?;
    print(&(line + "\n"))
}

fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|source| Error::File {
        doing: "writing",
        path: "standard output".into(),
        source,
    })
}

fn manual(directory: &Path) -> Result<()> {
    clap_mangen::generate_to(Arguments::command(), directory).map_err(|source| Error::File {
        doing: "writing manual pages into",
        path: directory.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use super::*;

    #[test]
    fn the_options_are_consistent_and_the_help_tells_the_exit_statuses() {
        let mut command = Arguments::command();
        command.clone().debug_assert();
        assert!(command.render_long_help().to_string().contains(EXIT));
    }

    #[test]
    fn every_shell_gets_completions_and_every_command_a_manual_page() {
        for shell in clap_complete::Shell::value_variants() {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "lucid-release", &mut text);
            assert!(String::from_utf8(text).unwrap().contains("rotate-root"), "{shell}");
        }
        let folder = tempfile::tempdir().unwrap();
        manual(folder.path()).unwrap();
        for page in ["lucid-release.1", "lucid-release-key-new.1", "lucid-release-rotate-root.1"] {
            assert!(folder.path().join(page).exists(), "{page}");
        }
    }
}
