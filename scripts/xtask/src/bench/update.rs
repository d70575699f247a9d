//! `scripts/bench update`: what a device downloads for three real updates, beside the whole image packed, `zstd --patch-from` and
//! `xdelta3 -9` on the same pair; what applying takes, in time and memory, by the code that devices run; and what is fetched again
//! after interruptions.

use std::{
    fmt::Write as _,
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::table;
use crate::{
    build::{self, Identity, MACHINE},
    error::{At, Error, Result},
    machine::Disks,
    progress::{Steps, ask_well},
    release::{self, Place},
    setup::{DEVICE_TARGET, Project, setup},
};

/// What `scripts/bench update` may be told.
#[derive(Args)]
pub(crate) struct UpdateArguments {
    /// Measures these updates alone; may be given more than once.
    #[arg(long, value_enum, value_name = "PAIR")]
    only: Vec<Pair>,
    /// Debian's package of the new kernel. It has to have the same modules as the usual one.
    #[arg(long, value_name = "PACKAGE", default_value = "linux-image-rt-arm64/trixie-backports")]
    kernel: String,
    /// How often staging is interrupted, for each update.
    #[arg(long, default_value_t = 20)]
    cuts: u32,
    /// Where the interruptions are follows from it.
    #[arg(long, default_value_t = 1)]
    seed: u32,
    /// Measures the update from this image to that of --new, and builds none.
    #[arg(long, value_name = "IMAGE", requires = "new", conflicts_with = "only")]
    old: Option<PathBuf>,
    /// The image to which --old is updated.
    #[arg(long, value_name = "IMAGE", requires = "old")]
    new: Option<PathBuf>,
    /// Prints JSON in place of the page.
    #[arg(long)]
    json: bool,
    /// Writes the results as a Markdown page to this file as well.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

/// An update that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Pair {
    /// Two services were built with another option of the compiler.
    Services,
    /// Another kernel.
    Kernel,
    /// Base packages in other versions.
    Packages,
}

impl Pair {
    fn name(self) -> &'static str {
        match self {
            Self::Services => "(a) two rebuilt services",
            Self::Kernel => "(b) a new kernel",
            Self::Packages => "(c) new base packages",
        }
    }
}

/// The versions that both images say they are.
const OLD: &str = "0.1.0";
const NEW: &str = "0.2.0";
/// The services that are built anew, and with which optimization.
const REBUILT: [&str; 2] = ["lucid-rdp", "lucid-sessiond"];
const REBUILT_WITH: &str = "2";
/// What the desktop and the system have of Debian's base, and the release whose versions of it are taken as the older ones.
const BASE: &str = "bash,coreutils,findutils,grep,less,mc,nano,procps,sed";
const OLDER: &str = "bookworm";
/// What the download should be at most, in parts of the best of the others, for the rebuilt services.
const GOAL: f64 = 1.1;
/// What the service may have in memory.
const MEMORY: f64 = 64e6;
/// The most bytes of a chunk: less than that should be fetched again.
const CHUNK: f64 = 131_072.0;

/// What was measured of an update.
struct Measured {
    name: String,
    /// What each method downloads.
    methods: Vec<(&'static str, u64)>,
    /// What a device does: with the patch, where there is one that is taken, and from the archive.
    applied: Vec<(&'static str, Value)>,
    cuts: Value,
    /// Bytes of the index, which a device fetches in any case.
    index: u64,
    /// Whether a patch was made that is smaller than the chunks.
    patch: bool,
}

impl Measured {
    fn bytes(&self, method: &str) -> Option<u64> {
        self.methods.iter().find(|(name, _)| *name == method).map(|(_, bytes)| *bytes)
    }

    /// What a device downloads, and how much that is in parts of the best of the others.
    fn ratio(&self) -> Option<(u64, f64)> {
        let ours = self.bytes(PATCH).or(self.bytes(CHUNKS))?;
        let best = self.bytes(ZSTD)?.min(self.bytes(XDELTA)?);
        Some((ours, ours as f64 / best as f64))
    }

    fn to_json(&self) -> Value {
        let ratio = self.ratio();
        json!({
            "update": self.name,
            "bytes": self.methods.iter().map(|(name, bytes)| ((*name).to_owned(), json!(bytes))).collect::<serde_json::Map<_, _>>(),
            "index": self.index,
            "patch": self.patch,
            "download": ratio.map(|(ours, _)| ours),
            "ratio_to_best": ratio.map(|(_, ratio)| ratio),
            "apply": self.applied.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect::<serde_json::Map<_, _>>(),
            "interruptions": self.cuts,
        })
    }
}

/// The names of the methods.
const WHOLE: &str = "the whole image, zstd -19";
const ARCHIVE: &str = "the whole archive, and the index";
const CHUNKS: &str = "the chunks that are missing, and the index";
const PATCH: &str = "the patch, and the index";
const ZSTD: &str = "zstd -19 --long=27 --patch-from";
const XDELTA: &str = "xdelta3 -9";

/// Measures and prints.
pub(crate) fn run(project: &Project, steps: &Steps, arguments: &UpdateArguments) -> Result<()> {
    setup(project, steps)?;
    build::host(project, steps, build::Host::Tools)?;
    let mut cargo = project.command("cargo");
    cargo.args(["build", "--release", "--package", "lucid-updated", "--example", "staging"]);
    steps.run("building what stages releases, as it would be released", &mut cargo)?;
    let dir = project.lucid.join("bench/update");
    fs::create_dir_all(&dir).at("making", &dir)?;
    let bench = Bench { project, steps, dir, arguments };

    let mut all = Vec::new();
    let measured = bench.all(&mut all);
    // What was measured before something failed is worth seeing.
    let page = page(&all);
    if arguments.json {
        let lines: Vec<Value> = all.iter().map(Measured::to_json).collect();
        println!("{}", json!({ "machine": table::machine(), "updates": lines }));
    } else {
        println!("{page}");
    }
    measured?;
    if let Some(path) = &arguments.write {
        fs::write(path, page).at("writing", path)?;
    }
    Ok(())
}

struct Bench<'a> {
    project: &'a Project,
    steps: &'a Steps,
    dir: PathBuf,
    arguments: &'a UpdateArguments,
}

impl Bench<'_> {
    fn all(&self, all: &mut Vec<Measured>) -> Result<()> {
        if let (Some(old), Some(new)) = (&self.arguments.old, &self.arguments.new) {
            let name = format!("{} to {}", old.display(), new.display());
            all.push(self.pair(&name, old, new)?);
            return Ok(());
        }
        let usual = build::services(self.project, self.steps)?;
        let services = self.dir.join("services");
        copy_services(&usual, &services)?;
        let base = self.image("base", OLD, &services, None, None)?;
        for pair in [Pair::Services, Pair::Kernel, Pair::Packages] {
            if !self.arguments.only.is_empty() && !self.arguments.only.contains(&pair) {
                continue;
            }
            let (old, new) = match pair {
                Pair::Services => {
                    let rebuilt = self.rebuilt(&services)?;
                    (base.clone(), self.image("services", NEW, &rebuilt, None, None)?)
                }
                Pair::Kernel => {
                    let kernel = Some(self.arguments.kernel.as_str());
                    (base.clone(), self.image("kernel", NEW, &services, None, kernel)?)
                }
                Pair::Packages => {
                    // Its tree is what `older` looks at.
                    let new = self.image("packages-new", NEW, &services, None, None)?;
                    let older = self.older()?;
                    (self.image("packages-old", OLD, &services, Some(&older), None)?, new)
                }
            };
            all.push(self.pair(pair.name(), &old, &new)?);
            self.steps.interrupt.check()?;
        }
        Ok(())
    }

    /// Builds an image; gives its file.
    fn image(
        &self,
        name: &str,
        version: &str,
        services: &Path,
        overlay: Option<&Path>,
        kernel: Option<&str>,
    ) -> Result<PathBuf> {
        let Self { project, steps, dir, .. } = self;
        let root = release::keys(Place { project, steps })?.root;
        let identity = Identity { version, overlay, kernel, ..Identity::usual(&root) };
        let out = dir.join("image").join(name);
        build::assemble(project, steps, services, &out, &identity, &format!("assembling the image {name}"))?;
        Ok(out.join("lucid.img"))
    }

    /// The services, of which two are built with another option of the compiler; gives their folder.
    fn rebuilt(&self, usual: &Path) -> Result<PathBuf> {
        let Self { project, steps, dir, .. } = self;
        let mut build = build::compile_services(project, build::When::Now);
        for service in REBUILT {
            build.args(["--config", &format!("profile.release.package.{service}.opt-level={REBUILT_WITH}")]);
        }
        let built = steps.run("building two services with another option", &mut build);
        let from = project.target.join(DEVICE_TARGET).join("release");
        let rebuilt = dir.join("services-rebuilt");
        let copied = built.and_then(|_| copy_services(usual, &rebuilt)).and_then(|()| {
            for service in REBUILT {
                let (from, to) = (from.join(service), rebuilt.join(service));
                fs::copy(&from, &to).at("copying", &from)?;
                if read(&to)? == read(&usual.join(service))? {
                    return Err(Error::broken(format!("{service} was built anew and is the same")));
                }
            }
            Ok(())
        });
        // Whoever takes them from there finds the usual ones again.
        build::services(project, steps)?;
        copied.map(|()| rebuilt)
    }

    /// A folder to lay over the image's tree, with Debian's base in older versions where the image has it.
    fn older(&self) -> Result<PathBuf> {
        let Self { project, steps, dir, .. } = self;
        let tree = dir.join("older");
        let done = dir.join("older.done");
        if !done.exists() {
            if tree.exists() {
                fs::remove_dir_all(&tree).at("emptying", &tree)?;
            }
            let words = ["sources", "--suite", OLDER].map(std::ffi::OsStr::new);
            let sources = ask_well("asking for the sources", &mut build::image_tool(project, &words), b"")?;
            let list = dir.join("older.list");
            fs::write(&list, sources.out).at("writing", &list)?;
            let mut debian = project.command("mmdebstrap");
            debian.args(["--variant=extract", "--architectures=arm64"]);
            debian.arg(format!("--include={BASE}")).arg(OLDER).arg(&tree).arg(&list);
            steps.run("getting older base packages", &mut debian)?;
            fs::write(&done, "").at("writing", &done)?;
        }
        let staging = project.lucid.join("image-cache/staging");
        let overlay = dir.join("older-overlay");
        if overlay.exists() {
            fs::remove_dir_all(&overlay).at("emptying", &overlay)?;
        }
        let mut count = 0;
        for side in ["", "desktop"] {
            for folder in ["usr/bin", "usr/sbin", "usr/lib/aarch64-linux-gnu"] {
                count += older_files(
                    &tree.join(folder),
                    &staging.join(side).join(folder),
                    &overlay.join(side).join(folder),
                )?;
            }
        }
        if count == 0 {
            return Err(Error::broken("no file of the image has an older version in Debian's base"));
        }
        eprintln!("{count} files of the image in older versions");
        Ok(overlay)
    }

    /// Measures an update from one image to another.
    fn pair(&self, name: &str, old: &Path, new: &Path) -> Result<Measured> {
        let Self { project, steps, dir, arguments } = self;
        eprintln!("{name} ...");
        let work = dir.join("pair");
        if work.exists() {
            fs::remove_dir_all(&work).at("emptying", &work)?;
        }
        let (slot, made) = (work.join("slot"), work.join("release"));
        for folder in [&slot, &made] {
            fs::create_dir_all(folder).at("making", folder)?;
        }
        let (old_parts, new_parts) = (parts(old, &work.join("old"))?, parts(new, &work.join("new"))?);

        // As whoever releases does.
        let keys = release::make_keys(Place { project, steps }, &work.join("keys"))?;
        // Under keys of its own, so not beside what says which version and root the image has.
        let (known, image) = (fs::canonicalize(new).at("finding", new)?, work.join("lucid.img"));
        std::os::unix::fs::symlink(&known, &image).at("linking to", &known)?;
        let mut add = release::tool(project, "add");
        add.arg(&image).args(["--machine", MACHINE, "--version", NEW, "--dir"]).arg(&keys.folder);
        add.arg("--patch-from").arg(format!("{OLD}={}", old.display()));
        steps.run("making the release and its patch", &mut add)?;
        let target =
            |ending: &str| keys.folder.join("targets").join(format!("lucid-{MACHINE}-{NEW}{ending}"));
        for (from, to) in [(".index", "index"), (".chunks", "archive")] {
            let from = target(from);
            fs::copy(&from, made.join(to)).at("copying", &from)?;
        }
        let patch = target(&format!("-from-{OLD}.patch"));
        let has_patch = patch.exists();
        if has_patch {
            fs::copy(&patch, made.join("patch")).at("copying", &patch)?;
        }
        let index = length(&made.join("index"))?;

        let mut applied = vec![("chunks", self.staging("apply", &work, &made, &slot, &[])?)];
        if has_patch {
            applied.push(("patch", self.staging("patch", &work, &made, &slot, &[])?));
        }
        let counts = [arguments.cuts.to_string(), arguments.seed.to_string()];
        let cuts = self.staging("cuts", &work, &made, &slot, &counts)?;

        let mut methods = vec![
            (
                WHOLE,
                self.packed(&work, "zstd -19 of the whole image", &["-19", "--single-thread"], &new_parts)?,
            ),
            (ARCHIVE, length(&made.join("archive"))? + index),
        ];
        for (name, (_, value)) in [CHUNKS, PATCH].into_iter().zip(&applied) {
            let asked = value["asked"].as_u64();
            let asked = asked.ok_or_else(|| Error::talk("staging", format!("no figure asked in {value}")))?;
            methods.push((name, asked + index));
        }
        let from = format!("--patch-from={}", old_parts.display());
        let words = ["-19", "--long=27", "--single-thread", &from];
        methods.push((ZSTD, self.packed(&work, "zstd --patch-from", &words, &new_parts)?));
        let delta = work.join("xdelta");
        // All of the old has to be within its window.
        let window = length(&old_parts)?.next_power_of_two().to_string();
        let mut xdelta = project.command("xdelta3");
        xdelta.args(["-f", "-9", "-B", &window, "-e", "-s"]).args([&old_parts, &new_parts, &delta]);
        steps.run("xdelta3 -9", &mut xdelta)?;
        methods.push((XDELTA, length(&delta)?));
        fs::remove_dir_all(&work).at("emptying", &work)?;
        Ok(Measured { name: name.to_owned(), methods, applied, cuts, index, patch: has_patch })
    }

    /// What `staging` says, an example of lucid-updated.
    fn staging(&self, how: &str, work: &Path, made: &Path, slot: &Path, last: &[String]) -> Result<Value> {
        let step = format!("staging: {how}");
        let mut command = Command::new(self.project.target.join("release/examples/staging"));
        command.arg(how).arg(work.join("old.parts")).arg(made).arg(slot).args(last);
        self.steps.run(&step, &mut command)?;
        let log = self.steps.log_path(&step);
        let said = fs::read_to_string(&log).at("reading", &log)?;
        let line = said.lines().rev().find(|line| line.starts_with('{')).unwrap_or_default();
        serde_json::from_str(line).map_err(|error| Error::talk("staging", error))
    }

    /// How many bytes zstd makes of a file.
    fn packed(&self, work: &Path, step: &str, words: &[&str], file: &Path) -> Result<u64> {
        let to = work.join("packed");
        let mut zstd = self.project.command("zstd");
        zstd.args(["-f", "-q"]).args(words).arg(file).arg("-o").arg(&to);
        self.steps.run(step, &mut zstd)?;
        length(&to)
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).at("reading", path)
}

fn length(path: &Path) -> Result<u64> {
    fs::metadata(path).map(|about| about.len()).at("looking at", path)
}

/// Copies every service into a folder.
fn copy_services(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).at("making", to)?;
    for service in build::SERVICES {
        let from = from.join(service);
        fs::copy(&from, to.join(service)).at("copying", &from)?;
    }
    Ok(())
}

/// Copies those files of an older tree that the image's tree has too, and has otherwise. Says how many.
fn older_files(tree: &Path, staging: &Path, to: &Path) -> Result<u32> {
    let mut count = 0;
    if !staging.is_dir() || !tree.is_dir() {
        return Ok(0);
    }
    for entry in fs::read_dir(staging).at("listing", staging)? {
        let path = entry.at("listing", staging)?.path();
        let Some(name) = path.file_name() else { continue };
        let older = tree.join(name);
        let is_file = |path: &Path| path.symlink_metadata().is_ok_and(|about| about.is_file());
        if !is_file(&path) || !is_file(&older) || read(&path)? == read(&older)? {
            continue;
        }
        fs::create_dir_all(to).at("making", to)?;
        fs::copy(&older, to.join(name)).at("copying", &older)?;
        count += 1;
    }
    Ok(count)
}

/// Takes the parts of slot A out of an image: each into a file of the folder `TO.parts`, and both, one after the other, into
/// the file that is given back.
fn parts(image: &Path, to: &Path) -> Result<PathBuf> {
    let folder = to.with_extension("parts");
    fs::create_dir_all(&folder).at("making", &folder)?;
    let place = image.parent().unwrap_or(Path::new("."));
    let mut disks = Disks::kept(place);
    disks.os = image.to_owned();
    let file = File::open(image).at("opening", image)?;
    let mut both = Vec::new();
    for (partition, name) in [("boot-a", "boot"), ("root-a", "root")] {
        let partition = disks.partition(partition)?;
        let bytes = usize::try_from(partition.length).unwrap_or(usize::MAX);
        let mut part = vec![0; bytes];
        file.read_exact_at(&mut part, partition.start).at("reading", image)?;
        let end = part.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        part.truncate(end.next_multiple_of(4096).min(bytes));
        let path = folder.join(name);
        fs::write(&path, &part).at("writing", &path)?;
        both.extend_from_slice(&part);
    }
    let path = to.with_extension("both");
    fs::write(&path, both).at("writing", &path)?;
    Ok(path)
}

/// The whole page.
fn page(all: &[Measured]) -> String {
    let mut page = format!("# Updates, measured\n\nMade by `scripts/bench update`. {}.\n", table::machine());
    if all.is_empty() {
        return page;
    }
    let mut put = |line: &str| {
        page.push_str(line);
        page.push('\n');
    };
    let head = |first: &str| {
        let names: String = all.iter().map(|one| format!(" {} |", one.name)).collect();
        format!("| {first} |{names}\n| --- |{}", " ---: |".repeat(all.len()))
    };
    let row = |name: &str, cell: &dyn Fn(&Measured) -> String| {
        let mut row = format!("| {name} |");
        for one in all {
            let _ = write!(row, " {} |", cell(one));
        }
        row
    };
    put("\n## Download, bytes\n");
    put(&head(""));
    for method in [WHOLE, ARCHIVE, CHUNKS, PATCH, ZSTD, XDELTA] {
        put(&row(method, &|one| one.bytes(method).map_or_else(|| "—".to_owned(), |bytes| bytes.to_string())));
    }
    put(&row("**a device downloads**", &|one| {
        one.ratio().map_or_else(|| "—".to_owned(), |(ours, _)| format!("**{ours}**"))
    }));
    put(&row(&format!("in parts of the best of the last two before (goal for (a): {GOAL})"), &|one| {
        one.ratio().map_or_else(|| "—".to_owned(), |(_, ratio)| format!("{ratio:.3}"))
    }));
    put("\n## Applying, on this machine\n");
    put(&head(""));
    for (how, name) in [("patch", "with the patch"), ("chunks", "with the chunks")] {
        let figure = |one: &Measured, figure: &str| {
            let (_, value) = one.applied.iter().find(|(name, _)| *name == how)?;
            value[figure].as_f64()
        };
        let shown = |value: Option<f64>, digits: usize, by: f64| {
            value.map_or_else(|| "—".to_owned(), |value| format!("{:.digits$}", value / by))
        };
        put(&row(&format!("{name}, s"), &|one| shown(figure(one, "seconds"), 2, 1.0)));
        put(&row(&format!("{name}, memory at most, MB (goal: {:.0})", MEMORY / 1e6), &|one| {
            shown(figure(one, "memory"), 1, 1e6)
        }));
    }
    put("\n## Fetched again after an interruption, bytes\n");
    put(&head(""));
    put(&row("interruptions", &|one| one.cuts["cuts"].to_string()));
    put(&row("on average", &|one| {
        one.cuts["again_mean"].as_f64().map_or_else(|| "—".to_owned(), |mean| format!("{mean:.0}"))
    }));
    put(&row(&format!("at most (goal: under a chunk, {CHUNK:.0})"), &|one| {
        one.cuts["again_most"].to_string()
    }));
    page
}
