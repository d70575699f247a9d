use std::{cell::Cell, collections::BTreeMap, os::unix::fs::symlink};

use super::*;

thread_local! {
    /// So many changes of the disk are left before the power is cut.
    static LEFT: Cell<u32> = const { Cell::new(u32::MAX) };
}

pub(super) fn moment() -> Result<()> {
    LEFT.with(|left| match left.get() {
        0 => Err(Error::Invalid { path: PathBuf::new(), why: "the power is cut".to_owned() }),
        u32::MAX => Ok(()),
        more => {
            left.set(more - 1);
            Ok(())
        }
    })
}

/// A device's data of form 1, and a system with these steps.
struct Device {
    dir: tempfile::TempDir,
}

impl Device {
    fn new() -> Self {
        let device = Self { dir: tempfile::tempdir().unwrap() };
        let root = device.root();
        for dir in [
            "lucid/provision",
            "var/lib/lucid-rdp",
            "var/lib/lucid-sessiond/recordings/one",
            "var/lib/lucid-updated",
        ] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        for (file, text) in [
            ("lucid/provision/settings.json", "settings 1"),
            ("var/lib/lucid-rdp/certificate", "certificate 1"),
            ("var/lib/lucid-sessiond/accounts", "accounts 1"),
            ("var/lib/lucid-sessiond/recordings/one/chunk", "evidence"),
            ("var/lib/lucid-updated/update.json", "state"),
            ("var/log", "log"),
        ] {
            fs::write(root.join(file), text).unwrap();
        }
        fs::set_permissions(root.join("var/lib/lucid-rdp/certificate"), fs::Permissions::from_mode(0o600))
            .unwrap();
        symlink("accounts", root.join("var/lib/lucid-sessiond/link")).unwrap();
        // Each step changes a file, removes one and makes a directory.
        device.has_step(2, "sed -i s/1/2/ \"$1\"/lucid/provision/settings.json && rm -r \"$1\"/var/lib/lucid-rdp && mkdir -p \"$1\"/var/lib/new && echo 2 >\"$1\"/var/lib/new/file");
        device.has_step(
            3,
            "sed -i s/2/3/ \"$1\"/lucid/provision/settings.json && echo 3 >\"$1\"/var/lib/new/other",
        );
        device
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn has_step(&self, to: u32, script: &str) {
        let steps = self.dir.path().join("steps");
        fs::create_dir_all(&steps).unwrap();
        let path = steps.join(to.to_string());
        fs::write(&path, format!("#!/bin/sh\nset -e\nPATH=/usr/bin:/bin\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn data(&self) -> Data {
        Data {
            root: self.root(),
            scope: vec!["lucid".into(), "var/lib".into()],
            left: vec!["var/lib/lucid-sessiond/recordings".into(), "var/lib/lucid-updated".into()],
            dir: self.root().join("form"),
            steps: self.dir.path().join("steps"),
        }
    }

    /// All files, with what is in them, their modes, or where they lead.
    fn files(&self) -> BTreeMap<PathBuf, String> {
        fn walk(dir: &Path, files: &mut BTreeMap<PathBuf, String>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let data = path.symlink_metadata().unwrap();
                if data.is_symlink() {
                    files.insert(path.clone(), fs::read_link(&path).unwrap().display().to_string());
                } else if data.is_dir() {
                    files.insert(path.clone(), format!("{:o}", data.mode()));
                    walk(&path, files);
                } else {
                    files.insert(
                        path.clone(),
                        format!("{:o} {}", data.mode(), fs::read_to_string(&path).unwrap()),
                    );
                }
            }
        }
        let mut files = BTreeMap::new();
        walk(&self.root(), &mut files);
        files.retain(|path, _| !path.starts_with(self.root().join("form")));
        files
    }

    fn copies(&self) -> Vec<String> {
        let Ok(listed) = fs::read_dir(self.root().join("form")) else { return Vec::new() };
        let mut names: Vec<_> =
            listed.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != "number" && name != "said" && name != "number.new");
        names.sort();
        names
    }
}

#[test]
fn a_later_system_changes_the_data_and_the_older_one_finds_it_as_it_was() {
    let device = Device::new();
    let before = device.files();
    assert_eq!(device.data().start(1, false).unwrap(), Done::Nothing);
    assert_eq!(device.data().start(3, true).unwrap(), Done::Forward(1));
    let settings = device.root().join("lucid/provision/settings.json");
    assert_eq!(fs::read_to_string(&settings).unwrap(), "settings 3");
    assert!(!device.root().join("var/lib/lucid-rdp").exists());
    assert_eq!(device.data().start(1, false).unwrap(), Done::Back(3));
    assert_eq!(device.files(), before);
    assert!(device.copies().is_empty());
}

#[test]
fn a_system_that_finds_its_own_form_writes_nothing() {
    let device = Device::new();
    LEFT.set(0);
    let done = device.data().start(1, false);
    LEFT.set(u32::MAX);
    assert_eq!(done.unwrap(), Done::Nothing);
    assert!(!device.data().dir.exists());
}

#[test]
fn once_the_later_system_is_kept_the_copy_goes() {
    let device = Device::new();
    device.data().start(2, true).unwrap();
    // Started again during the same try.
    assert_eq!(device.data().start(2, true).unwrap(), Done::Nothing);
    assert_eq!(device.copies(), ["before-1"]);
    assert_eq!(device.data().start(2, false).unwrap(), Done::Nothing);
    assert!(device.copies().is_empty());
    let error = device.data().start(1, false).unwrap_err();
    assert!(matches!(error, Error::Later { found: 2, own: 1 }), "{error}");
    assert_eq!(device.data().number().unwrap(), 2);
}

#[test]
fn once_the_try_has_passed_the_copy_is_forgotten_without_another_start() {
    let device = Device::new();
    device.data().start(3, true).unwrap();
    let after = device.files();
    // Another system's form: the copy may be all that it has.
    for other in [1, 2, 4] {
        assert_eq!(device.data().forget(other).unwrap(), None);
        assert_eq!(device.copies(), ["before-1"]);
    }
    assert_eq!(device.data().forget(3).unwrap(), Some(1));
    assert!(device.copies().is_empty());
    assert_eq!(device.data().forget(3).unwrap(), Some(0));
    // The old slot starts months later: it does not bring old data back.
    let error = device.data().start(1, false).unwrap_err();
    assert!(matches!(error, Error::Later { found: 3, own: 1 }), "{error}");
    assert_eq!(device.files(), after);
}

/// Copies go when they are forgotten, and when a system starts that is kept.
#[test]
fn with_the_power_cut_while_a_copy_goes_it_is_whole_or_gone() {
    let ways: [fn(&Data) -> bool; 2] = [|data| data.forget(3).is_ok(), |data| data.start(3, false).is_ok()];
    for way in ways {
        let (mut cut, mut whole) = (0, 0);
        loop {
            let device = Device::new();
            let before = device.files();
            device.data().start(3, true).unwrap();
            let after = device.files();
            LEFT.set(cut);
            let done = way(&device.data());
            LEFT.set(u32::MAX);
            match device.data().start(1, false) {
                Ok(back) => {
                    assert_eq!((back, device.files()), (Done::Back(3), before), "cut at {cut}");
                    whole += 1;
                }
                Err(error) => {
                    assert!(matches!(error, Error::Later { found: 3, own: 1 }), "cut at {cut}: {error}");
                    assert_eq!(device.files(), after, "cut at {cut}");
                    // The system that is kept removes the rest when it starts.
                    assert_eq!(device.data().start(3, false).unwrap(), Done::Nothing);
                    assert!(device.copies().is_empty(), "cut at {cut}");
                }
            }
            if done {
                break;
            }
            cut += 1;
        }
        assert!(whole > 0 && cut > whole, "{cut} cuts, {whole} of them before the copy was moved away");
    }
}

#[test]
fn a_copy_that_fails_does_not_keep_the_disk_full() {
    let device = Device::new();
    // It comes last, and takes no room.
    let large = File::create(device.root().join("var/lib/z")).unwrap();
    large.set_len(MAX_BYTES + 1).unwrap();
    let error = device.data().start(2, true).unwrap_err();
    assert!(matches!(error, Error::TooMuch(_)), "{error}");
    assert!(device.copies().is_empty());
    assert_eq!(device.data().number().unwrap(), 1);
    let settings = device.root().join("lucid/provision/settings.json");
    assert_eq!(fs::read_to_string(settings).unwrap(), "settings 1");
}

#[test]
fn a_damaged_number_without_a_copy_is_mended_and_later_systems_are_taken_again() {
    for bytes in [&b""[..], b"one\n", b"\0\0", b"\xff\xfe\n"] {
        let device = Device::new();
        let before = device.files();
        fs::create_dir(device.data().dir).unwrap();
        fs::write(device.root().join("form/number"), bytes).unwrap();
        // The power is cut before it is written.
        LEFT.set(0);
        let cut = device.data().start(1, false);
        LEFT.set(u32::MAX);
        cut.unwrap_err();
        assert_eq!(device.data().start(1, false).unwrap(), Done::Mended);
        assert_eq!(device.files(), before);
        assert_eq!(device.data().start(1, false).unwrap(), Done::Nothing);
        assert_eq!(device.data().start(3, true).unwrap(), Done::Forward(1));
    }
}

#[test]
fn a_damaged_number_is_not_guessed_where_a_copy_says_that_it_was_another_one() {
    for copy in ["before-1", "giving-back-1"] {
        let device = Device::new();
        fs::create_dir_all(device.data().dir.join(copy)).unwrap();
        fs::write(device.root().join("form/number"), "one\n").unwrap();
        let before = device.files();
        let error = device.data().start(2, false).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert_eq!((device.files(), device.copies()), (before, vec![copy.to_owned()]));
    }
}

#[test]
fn recordings_and_what_the_update_service_knows_are_never_put_back() {
    let device = Device::new();
    device.data().start(2, true).unwrap();
    let added = [
        ("var/lib/lucid-sessiond/recordings/two", "made in the try"),
        ("var/lib/lucid-updated/update.json", "trying"),
    ];
    for (file, text) in added {
        fs::write(device.root().join(file), text).unwrap();
    }
    device.data().start(1, false).unwrap();
    for (file, text) in added {
        assert_eq!(fs::read_to_string(device.root().join(file)).unwrap(), text);
    }
}

#[test]
fn a_step_that_fails_leaves_the_data_as_it_was() {
    let device = Device::new();
    let before = device.files();
    device.has_step(3, "rm -r \"$1\"/lucid; echo this cannot be read >&2; exit 3");
    let error = device.data().start(3, true).unwrap_err().to_string();
    assert!(error.contains("form 3") && error.contains("this cannot be read"), "{error}");
    assert_eq!(device.files(), before);
    assert_eq!(device.data().number().unwrap(), 1);
}

#[test]
fn a_system_without_the_way_changes_nothing() {
    let device = Device::new();
    let before = device.files();
    let error = device.data().start(4, true).unwrap_err();
    assert!(matches!(error, Error::NoWay { to: 4, .. }), "{error}");
    assert_eq!(device.files(), before);
}

#[test]
fn a_number_that_is_none_is_named_and_nothing_is_changed() {
    let device = Device::new();
    fs::create_dir(device.data().dir).unwrap();
    let before = device.files();
    for text in ["", "1", "0\n", "one\n", "99999999999\n", "1\n1\n"] {
        fs::write(device.root().join("form/number"), text).unwrap();
        let error = device.data().start(2, true).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{text:?}: {error}");
        assert_eq!(device.files(), before);
    }
}

/// The power is cut before every change of the disk, in the later system and in the older one that comes after it, or in the
/// later one that is tried again: in the end each finds its own data.
#[test]
fn with_the_power_cut_at_every_change_each_system_finds_its_data() {
    let wanted = {
        let device = Device::new();
        device.data().start(3, true).unwrap();
        device.files()
    };
    let strip = |files: &BTreeMap<PathBuf, String>, device: &Device| -> BTreeMap<PathBuf, String> {
        files
            .iter()
            .map(|(path, text)| (path.strip_prefix(device.root()).unwrap().to_owned(), text.clone()))
            .collect()
    };
    let wanted: BTreeMap<PathBuf, String> = wanted
        .into_iter()
        .map(|(path, text)| {
            let parts = path.components().skip_while(|part| part.as_os_str() != "data").skip(1);
            (parts.collect(), text)
        })
        .collect();
    let (mut first, mut cuts) = (0, 0);
    loop {
        let whole = {
            let device = Device::new();
            LEFT.set(first);
            let done = device.data().start(3, true);
            LEFT.set(u32::MAX);
            done.is_ok()
        };
        let mut second = 0;
        loop {
            let device = Device::new();
            let before = device.files();
            LEFT.set(first);
            let _cut = device.data().start(3, true);
            LEFT.set(second);
            let back = device.data().start(1, false);
            LEFT.set(u32::MAX);
            cuts += 1;
            device.data().start(1, false).unwrap();
            assert_eq!(device.files(), before, "cut at {first}, then at {second}");
            // And the next try works.
            device.data().start(3, true).unwrap();
            assert_eq!(strip(&device.files(), &device), wanted, "cut at {first}, then at {second}");
            if back.is_ok() {
                break;
            }
            second += 1;
        }
        if whole {
            break;
        }
        first += 1;
    }
    assert!(cuts > 30, "only {cuts} pairs of cuts");
}
