//! Trees of Debian packages: downloaded, unpacked, never installed. No maintainer script runs,
//! so no emulation is needed. A tree is kept in the cache under a name made from everything that
//! went into the request; delete the cache to follow newer packages.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::apt::Archive;
use crate::error::{At, Error, Result};

/// What a tree is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Request {
    /// A word for people and for the directory's name.
    pub name: String,
    /// Debian's name of the processor.
    pub architecture: String,
    /// The release.
    pub suite: String,
    /// Whether packages may be asked for from the release's backports (`name/suite-backports`).
    pub backports: bool,
    /// The packages; what they depend on comes along.
    pub packages: Vec<String>,
}

/// One package of a tree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its processor, or `all`.
    pub architecture: String,
    /// SHA-256 of the package file.
    pub sha256: String,
}

/// A tree that lies in the cache.
#[derive(Debug, Clone)]
pub struct DebianTree {
    /// Its root directory.
    pub root: PathBuf,
    /// The packages in it, sorted.
    pub packages: Vec<Package>,
}

/// Runs a program to its end and keeps its error output for the message.
///
/// # Errors
/// When it cannot be started or fails.
pub fn run(command: &mut Command) -> Result<Vec<u8>> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Start { program: program.clone(), source })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n");
    Err(Error::Program { program, status: output.status, output: last })
}

impl Request {
    /// The tree: out of the cache, or downloaded into it.
    ///
    /// # Errors
    /// When the archive is not configured or packages cannot be had.
    pub fn fetch(&self, archive: &Archive, cache: &Path) -> Result<DebianTree> {
        let key = hex::encode(Sha256::digest(format!("2 {self:?} {archive:?}").as_bytes()));
        let home = cache.join(format!("{}-{}", self.name, key.get(..12).unwrap_or_default()));
        let root = home.join("root");
        let list = home.join("packages.json");
        if !list.is_file() {
            self.download(archive, &home, &root, &list)?;
        }
        let text = fs::read(&list).at("reading", &list)?;
        let packages = serde_json::from_slice(&text).map_err(|error| Error::Format {
            path: list,
            why: format!("{error}; delete it and try again"),
        })?;
        Ok(DebianTree { root, packages })
    }

    /// The list of packages is written last: a tree without it was interrupted and is made anew.
    fn download(&self, archive: &Archive, home: &Path, root: &Path, list: &Path) -> Result<()> {
        if home.exists() {
            fs::remove_dir_all(home).at("removing", home)?;
        }
        fs::create_dir_all(home).at("making", home)?;
        let sources = home.join("sources.list");
        fs::write(&sources, archive.lines(&self.suite, self.backports).join("\n") + "\n")
            .at("writing", &sources)?;
        run(Command::new("mmdebstrap")
            .arg("--variant=extract")
            .arg(format!("--architectures={}", self.architecture))
            .arg(format!("--include={}", self.packages.join(",")))
            .arg("--skip=cleanup/apt/cache")
            .arg(&self.suite)
            .arg(root)
            .arg(&sources))?;
        let archives = root.join("var/cache/apt/archives");
        let packages = read_packages(&archives)?;
        fs::remove_dir_all(&archives).at("removing", &archives)?;
        let text = serde_json::to_vec_pretty(&packages)
            .map_err(|error| Error::Format { path: list.to_owned(), why: error.to_string() })?;
        fs::write(list, text).at("writing", list)
    }
}

/// Package files are named `name_version_architecture.deb`, the colon of an epoch as `%3a`.
fn read_packages(archives: &Path) -> Result<Vec<Package>> {
    let mut packages = Vec::new();
    for entry in fs::read_dir(archives).at("listing", archives)? {
        let path = entry.at("listing", archives)?.path();
        if path.extension() != Some(OsStr::new("deb")) {
            continue;
        }
        let stem =
            path.file_stem().map(|stem| stem.to_string_lossy().replace("%3a", ":")).unwrap_or_default();
        let mut parts = stem.split('_').map(str::to_owned);
        let (Some(name), Some(version), Some(architecture)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(Error::Format { path, why: "is not named like a Debian package".into() });
        };
        let sha256 = hex::encode(Sha256::digest(fs::read(&path).at("reading", &path)?));
        packages.push(Package { name, version, architecture, sha256 });
    }
    packages.sort();
    Ok(packages)
}

/// Programs for this machine out of a newer Debian than it runs, started by their own dynamic
/// linker so that they find their own libraries and nothing is installed.
#[derive(Debug, Clone)]
pub struct Tools {
    root: PathBuf,
}

/// What the image is made with: Debian 12's own mkfs.erofs knows no zstd.
const IMAGE_TOOLS: [&str; 3] = ["erofs-utils", "kmod", "u-boot-tools"];

impl Tools {
    /// The tools that the image is made with.
    ///
    /// # Errors
    /// When they cannot be had.
    pub fn for_images(archive: &Archive, cache: &Path) -> Result<Self> {
        Self::with(archive, cache, "trixie", &IMAGE_TOOLS.map(str::to_owned))
    }

    /// A tree with any programs.
    ///
    /// # Errors
    /// When they cannot be had.
    pub fn with(archive: &Archive, cache: &Path, suite: &str, packages: &[String]) -> Result<Self> {
        let request = Request {
            name: "tools".into(),
            architecture: "amd64".into(),
            suite: suite.into(),
            backports: false,
            packages: packages.to_vec(),
        };
        Ok(Self { root: request.fetch(archive, cache)?.root })
    }

    /// The tree's root.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A command that runs `path` (such as `usr/bin/mkfs.erofs`) of the tree.
    #[must_use]
    pub fn command(&self, path: &str) -> Command {
        let libraries = self.root.join("usr/lib/x86_64-linux-gnu");
        let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(libraries).arg("--argv0").arg(path).arg(self.root.join(path));
        command
    }
}
