//! Compiling the keymap.

use super::{LauncherError, wait};
use lucid_desktop::KeyboardLayout;
use lucid_desktop::handover::MAX_KEYMAP;
use rustix::fs::{MemfdFlags, SealFlags};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// A keymap in memory that can no longer change.
pub(super) struct Keymap {
    pub(super) memory: OwnedFd,
    /// Bytes, with the final NUL.
    pub(super) size: u32,
}

/// Compiles the layout with xkbcli.
pub(super) fn compile(
    xkbcli: &Path,
    keyboard: &KeyboardLayout,
    deadline: Instant,
) -> Result<Keymap, LauncherError> {
    let failed = |why: String| LauncherError::Keymap {
        layout: keyboard.layout.clone(),
        variant: keyboard.variant.clone(),
        why,
    };
    let mut command = Command::new(xkbcli);
    command.args(["compile-keymap", "--layout", &keyboard.layout, "--variant", &keyboard.variant]);
    if keyboard.layout.contains(',') {
        // As in Windows.
        command.args(["--options", "grp:alt_shift_toggle,grp:win_space_toggle"]);
    }
    let mut child = command
        .env_clear()
        .env("PATH", super::PATH)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| failed(format!("{} could not be started: {e}", xkbcli.display())))?;
    let mut text = Vec::new();
    let mut output = child.stdout.take().ok_or_else(|| failed("its output is missing".into()))?;
    loop {
        if wait([&output], Some(deadline))?[0].is_empty() {
            // It is killed with everything else.
            return Err(failed("it took too long".into()));
        }
        let mut part = [0; 16384];
        match output.read(&mut part) {
            Ok(0) => break,
            Ok(read) => text.extend_from_slice(part.get(..read).unwrap_or_default()),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(failed(format!("reading its output: {e}"))),
        }
        if text.len() >= MAX_KEYMAP as usize {
            return Err(failed(format!("the keymap is bigger than {MAX_KEYMAP} bytes")));
        }
    }
    let status = child.wait().map_err(|e| failed(format!("waiting for its end: {e}")))?;
    if !status.success() {
        return Err(failed(format!("xkbcli ended with {status}; what it said is above")));
    }
    if !text.starts_with(b"xkb_keymap") || text.contains(&0) {
        return Err(failed("xkbcli wrote something else than a keymap".into()));
    }
    text.push(0);
    let doing = "putting the keymap into memory";
    let memory = rustix::fs::memfd_create("lucid-keymap", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .map_err(LauncherError::system(doing))?;
    let mut rest = text.as_slice();
    while !rest.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&memory, rest))
            .map_err(LauncherError::system(doing))?;
        rest = rest.get(written..).unwrap_or_default();
    }
    let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&memory, all).map_err(LauncherError::system(doing))?;
    Ok(Keymap { memory, size: text.len() as u32 /* at most MAX_KEYMAP */ })
}
