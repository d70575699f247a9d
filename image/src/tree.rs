//! Composes the root: what is picked from Debian's tree by the lists `system.files` and
//! `desktop.files`, the libraries those programs need, our static files, our programs.
//!
//! A list has one path of the Debian tree on a line (a `*` in its last part matches anything; a
//! directory means everything below it); a line that begins with `-` takes paths out again; `#`
//! begins a comment. Libraries need not be listed: they follow from what the programs say they
//! need (`DT_NEEDED`). What is opened only at run time is listed.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use goblin::elf::Elf;
use sha2::{Digest as _, Sha256};

use crate::error::{At, Error, Result};

/// Where programs for arm64 look for libraries, in Debian's layout. PipeWire's modules need each other.
const LIBRARIES: [&str; 3] = [
    "usr/lib/aarch64-linux-gnu",
    "usr/lib/aarch64-linux-gnu/systemd",
    "usr/lib/aarch64-linux-gnu/pipewire-0.3",
];
/// The merged directories of Debian.
const MERGED: [(&str, &str); 3] = [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib")];

/// One side of the root.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// `system` or `desktop`.
    pub name: &'static str,
    /// What is picked.
    pub list: &'a str,
    /// Empty directories that services mount upon.
    pub directories: &'a [&'a str],
}

/// Puts one side together in `target`, with hard links into Debian's tree: what both sides use
/// is one file in the image.
///
/// # Errors
/// When something listed or needed is not in Debian's tree.
pub fn compose(side: &Side<'_>, debian: &Path, target: &Path) -> Result<()> {
    let picked = pick(side, debian)?;
    let complete = with_libraries(side.name, debian, picked)?;
    for (link, to) in MERGED {
        let link = target.join(link);
        fs::create_dir_all(target).at("making", target)?;
        fs::create_dir_all(target.join(to)).at("making", &target.join(to))?;
        symlink(to, &link).at("linking", &link)?;
    }
    for directory in side.directories {
        let path = target.join(directory);
        fs::create_dir_all(&path).at("making", &path)?;
    }
    for path in complete {
        let (from, to) = (debian.join(&path), target.join(&path));
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).at("making", parent)?;
        }
        let kind = fs::symlink_metadata(&from).at("reading", &from)?.file_type();
        if kind.is_symlink() {
            symlink(fs::read_link(&from).at("reading", &from)?, &to).at("linking", &to)?;
        } else {
            fs::hard_link(&from, &to).at("linking", &to)?;
        }
    }
    Ok(())
}

/// Resolves the list to files and symbolic links.
fn pick(side: &Side<'_>, debian: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut picked = BTreeSet::new();
    let mut missing = Vec::new();
    for line in side.list.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let (remove, pattern) = match line.strip_prefix('-') {
            Some(pattern) => (true, pattern),
            None => (false, line),
        };
        let found = matching(debian, pattern)?;
        if found.is_empty() {
            missing.push(pattern);
        }
        for path in found {
            if remove {
                picked.retain(|other: &PathBuf| !other.starts_with(&path));
            } else {
                collect(debian, &path, &mut picked)?;
            }
        }
    }
    if !missing.is_empty() {
        let what = format!("Debian's tree has no {}; correct image/{}.files", missing.join(", "), side.name);
        return Err(Error::Tree { tree: side.name, what });
    }
    Ok(picked)
}

/// Paths that match a pattern whose last part may hold one `*`.
fn matching(debian: &Path, pattern: &str) -> Result<Vec<PathBuf>> {
    let path = Path::new(pattern);
    let (parent, last) =
        (path.parent().unwrap_or(path), path.file_name().unwrap_or_default().to_string_lossy());
    let Some((before, after)) = last.split_once('*') else {
        return Ok(fs::symlink_metadata(debian.join(path))
            .map(|_| vec![path.to_owned()])
            .unwrap_or_default());
    };
    let directory = debian.join(parent);
    let mut found = Vec::new();
    for entry in fs::read_dir(&directory).at("listing", &directory)? {
        let name = entry.at("listing", &directory)?.file_name();
        let text = name.to_string_lossy();
        if text.len() >= before.len() + after.len() && text.starts_with(before) && text.ends_with(after) {
            found.push(parent.join(&name));
        }
    }
    found.sort();
    Ok(found)
}

/// A file, a link with what it points to, or everything below a directory.
fn collect(debian: &Path, path: &Path, picked: &mut BTreeSet<PathBuf>) -> Result<()> {
    let full = debian.join(path);
    let kind = fs::symlink_metadata(&full).at("reading", &full)?.file_type();
    if kind.is_dir() {
        for entry in fs::read_dir(&full).at("listing", &full)? {
            collect(debian, &path.join(entry.at("listing", &full)?.file_name()), picked)?;
        }
    } else if picked.insert(path.to_owned()) && kind.is_symlink() {
        let to = resolve(path, &fs::read_link(&full).at("reading", &full)?);
        if fs::symlink_metadata(debian.join(&to)).is_ok() {
            collect(debian, &to, picked)?;
        }
    }
    Ok(())
}

/// Where a link at `path` leads inside the tree, with the merged directories spelt out.
fn resolve(path: &Path, to: &Path) -> PathBuf {
    let mut parts: Vec<Component<'_>> = if to.is_absolute() {
        Vec::new()
    } else {
        path.parent().map(|parent| parent.components().collect()).unwrap_or_default()
    };
    for part in to.components() {
        match part {
            Component::ParentDir => {
                parts.pop();
            }
            Component::Normal(_) => parts.push(part),
            _ => {}
        }
    }
    let plain: PathBuf = parts.iter().collect();
    for (link, real) in MERGED {
        if let Ok(rest) = plain.strip_prefix(link) {
            return Path::new(real).join(rest);
        }
    }
    plain
}

/// Adds the dynamic linker and every library that is needed, and what those need.
fn with_libraries(tree: &'static str, debian: &Path, picked: BTreeSet<PathBuf>) -> Result<BTreeSet<PathBuf>> {
    let mut queue: VecDeque<PathBuf> = picked.iter().cloned().collect();
    let mut complete = picked;
    while let Some(path) = queue.pop_front() {
        let full = debian.join(&path);
        if !fs::symlink_metadata(&full).at("reading", &full)?.is_file() {
            continue;
        }
        let bytes = fs::read(&full).at("reading", &full)?;
        if !bytes.starts_with(b"\x7fELF") {
            continue;
        }
        let elf = Elf::parse(&bytes)
            .map_err(|error| Error::Format { path: full.clone(), why: error.to_string() })?;
        let mut wanted = Vec::new();
        if let Some(interpreter) = elf.interpreter {
            wanted.push(resolve(Path::new("x"), Path::new(interpreter)));
        }
        for library in &elf.libraries {
            let found = LIBRARIES
                .iter()
                .map(|directory| Path::new(directory).join(library))
                .find(|candidate| debian.join(candidate).exists())
                .ok_or_else(|| Error::Tree {
                    tree,
                    what: format!("{} needs {library}, which Debian's tree does not have", path.display()),
                })?;
            wanted.push(found);
        }
        for path in wanted {
            let mut with_target = BTreeSet::new();
            collect(debian, &path, &mut with_target)?;
            for path in with_target {
                if complete.insert(path.clone()) {
                    queue.push_back(path);
                }
            }
        }
    }
    Ok(complete)
}

/// Copies our static files over a tree. Modes follow from the file: 0755 when anyone may run it,
/// 0644 otherwise, whatever the umask of the checkout was.
///
/// # Errors
/// When a file cannot be read or written.
pub fn overlay(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).at("making", to)?;
    let mut entries =
        fs::read_dir(from).and_then(Iterator::collect::<std::io::Result<Vec<_>>>).at("listing", from)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().at("reading", &source)?;
        if kind.is_dir() {
            overlay(&source, &target)?;
        } else if kind.is_symlink() {
            let link = fs::read_link(&source).at("reading", &source)?;
            replace(&target)?;
            symlink(link, &target).at("linking", &target)?;
        } else {
            let mode = fs::metadata(&source).at("reading", &source)?.permissions().mode();
            install(&source, &target, if mode & 0o111 == 0 { 0o644 } else { 0o755 })?;
        }
    }
    Ok(())
}

/// SHA-256 over everything in a directory: paths, kinds, whether files can be run, and what is in them.
///
/// # Errors
/// When something cannot be read.
pub fn digest(root: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    add(root, root, &mut hash)?;
    Ok(hex::encode(hash.finalize()))
}

fn add(root: &Path, directory: &Path, hash: &mut Sha256) -> Result<()> {
    let mut entries = fs::read_dir(directory)
        .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
        .at("listing", directory)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let meta = fs::symlink_metadata(&path).at("reading", &path)?;
        let mut item = |kind: &[u8], contents: &[u8]| {
            for part in [path.strip_prefix(root).unwrap_or(&path).as_os_str().as_bytes(), kind, contents] {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part);
            }
        };
        if meta.is_dir() {
            item(b"directory", b"");
            add(root, &path, hash)?;
        } else if meta.is_symlink() {
            item(b"link", fs::read_link(&path).at("reading", &path)?.as_os_str().as_bytes());
        } else {
            let kind: &[u8] = if meta.permissions().mode() & 0o111 == 0 { b"file" } else { b"program" };
            item(kind, &fs::read(&path).at("reading", &path)?);
        }
    }
    Ok(())
}

/// Never writes through a hard link into Debian's tree.
fn replace(target: &Path) -> Result<()> {
    if fs::symlink_metadata(target).is_ok() {
        fs::remove_file(target).at("replacing", target)?;
    }
    Ok(())
}

/// Copies one file with a mode.
///
/// # Errors
/// When it cannot be read or written.
pub fn install(from: &Path, to: &Path, mode: u32) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).at("making", parent)?;
    }
    replace(to)?;
    fs::copy(from, to).at("copying to", to)?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode)).at("setting the mode of", to)
}

/// Writes one file of the image.
///
/// # Errors
/// When it cannot be written.
pub fn write(to: &Path, contents: &[u8]) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).at("making", parent)?;
    }
    replace(to)?;
    fs::write(to, contents).at("writing", to)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o644)).at("setting the mode of", to)
}

/// A file of a tree with its size; names are relative to the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its path.
    pub path: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Whether it is another name of a file listed before it (a hard link).
    pub again: bool,
    /// Whether it can be run: an executable mode, an ELF program or library, or a `#!` script.
    pub executable: bool,
    /// Whether its first two bytes are `#!`.
    pub script: bool,
}

/// Lists the regular files of a tree, sorted by path.
///
/// # Errors
/// When something cannot be read.
pub fn items(root: &Path) -> Result<Vec<Item>> {
    let mut found = Vec::new();
    walk(root, root, &mut found)?;
    found.sort_by(|(_, a), (_, b)| a.path.cmp(&b.path));
    let mut seen = BTreeSet::new();
    Ok(found.into_iter().map(|(inode, item)| Item { again: !seen.insert(inode), ..item }).collect())
}

fn walk(root: &Path, directory: &Path, found: &mut Vec<(u64, Item)>) -> Result<()> {
    for entry in fs::read_dir(directory).at("listing", directory)? {
        let entry = entry.at("listing", directory)?;
        let path = entry.path();
        let meta = fs::symlink_metadata(&path).at("reading", &path)?;
        if meta.is_dir() {
            walk(root, &path, found)?;
        } else if meta.is_file() {
            let bytes = fs::read(&path).at("reading", &path)?;
            let script = bytes.starts_with(b"#!");
            let elf =
                bytes.starts_with(b"\x7fELF") && path.extension().is_none_or(|extension| extension != "ko");
            let item = Item {
                again: false,
                path: path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned(),
                bytes: meta.len(),
                executable: script || elf || meta.permissions().mode() & 0o111 != 0,
                script,
            };
            found.push((meta.ino(), item));
        }
    }
    Ok(())
}
