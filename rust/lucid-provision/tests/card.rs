//! From a FAT image to the files of the services, as an ordinary user.
// The helpers of tests fail a test in the same way as the tests.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use lucid_policy::Policy;
use lucid_provision::apply::{Announcement, Applied, Places, Recording, apply};
use lucid_provision::config::{Config, Password, Settings};
use lucid_provision::secret::Secret;
use lucid_provision::store::{Store, read_json};

/// A device: a card, a data directory, a run directory.
struct Device {
    dir: tempfile::TempDir,
    data_state: &'static str,
    var_kept: bool,
}

impl Device {
    fn new() -> Self {
        let device = Self { dir: tempfile::tempdir().unwrap(), data_state: "ok", var_kept: true };
        let card = File::options().read(true).write(true).create_new(true).open(device.card()).unwrap();
        card.set_len(8 << 20).unwrap();
        fatfs::format_volume(&card, fatfs::FormatVolumeOptions::new().volume_label(*b"SELECT     ")).unwrap();
        device.put("autoboot.txt", &[b'#'; 512]);
        device
    }

    fn card(&self) -> PathBuf {
        self.dir.path().join("card.img")
    }

    fn run(&self, name: &str) -> PathBuf {
        self.dir.path().join("run").join(name)
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data/lucid/provision")
    }

    fn open(&self) -> fatfs::FileSystem<File> {
        let file = File::options().read(true).write(true).open(self.card()).unwrap();
        fatfs::FileSystem::new(file, fatfs::FsOptions::new()).unwrap()
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        let fs = self.open();
        let mut file = fs.root_dir().create_file(name).unwrap();
        file.truncate().unwrap();
        file.write_all(bytes).unwrap();
    }

    fn get(&self, name: &str) -> Option<Vec<u8>> {
        let fs = self.open();
        let mut bytes = Vec::new();
        fs.root_dir().open_file(name).ok()?.read_to_end(&mut bytes).unwrap();
        Some(bytes)
    }

    fn remove(&self, name: &str) {
        self.open().root_dir().remove(name).unwrap();
    }

    /// One start of the device.
    fn start(&self) -> Applied {
        let _ = fs::remove_dir_all(self.dir.path().join("run"));
        fs::create_dir_all(self.run("lucid")).unwrap();
        let boot = format!(
            r#"{{"slot":"a","partition":2,"tryboot":false,"disk":"/dev/vda","select":{:?},"data":{{"state":"{}","var_kept":{},"message":"the data message"}}}}"#,
            self.card(),
            self.data_state,
            self.var_kept
        );
        fs::write(self.run("lucid/boot.json"), boot).unwrap();
        apply(&self.places()).unwrap()
    }

    fn places(&self) -> Places {
        let run = self.dir.path().join("run");
        Places { boot: run.join("lucid/boot.json"), select: None, run, data: self.data() }
    }

    fn accounts(&self) -> String {
        fs::read_to_string(self.run("lucid-provision/accounts.json")).unwrap()
    }

    fn announcement(&self) -> Announcement {
        read_json(&self.run("lucid-provision/announce.json")).unwrap().unwrap()
    }

    /// Whether the bytes are anywhere on the card's image.
    fn on_card(&self, text: &str) -> bool {
        let bytes = fs::read(self.card()).unwrap();
        bytes.windows(text.len()).any(|w| w == text.as_bytes())
    }
}

fn golden(part: &str) -> Vec<u8> {
    fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(part)).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn account_line(user: &str, password: &str) -> String {
    let hash = Secret::new(password.to_owned()).nt_hash();
    format!("{{\"version\":1,\"accounts\":[{{\"user\":\"{user}\",\"nt_hash\":\"{}\"}}]}}\n", hash.expose())
}

#[test]
fn a_good_file_gives_exactly_the_files_that_the_services_read() {
    let device = Device::new();
    device.put("lucid.toml", &golden("good.toml"));
    let applied = device.start();
    assert!(applied.notes.is_empty(), "{:?}", applied.notes);
    assert_eq!(device.accounts(), account_line("anna", "correct horse battery"));
    assert_eq!(
        fs::read_to_string(device.run("lucid-provision/desktop.json")).unwrap(),
        "{\"version\":1,\"keyboard\":{\"layout\":\"de\",\"variant\":\"nodeadkeys\"},\"name\":\"desk-1\"}\n"
    );
    assert_eq!(fs::read(device.run("systemd/network/10-lucid.network")).unwrap(), golden("10-lucid.network"));
    for file in ["lucid-provision/accounts.json", "lucid-provision/rdp-account.json"] {
        assert_eq!(mode(&device.run(file)), 0o600);
    }
    assert_eq!(mode(&device.run("lucid-provision/announce.json")), 0o600);
    assert_eq!(mode(&device.run("lucid-provision/desktop.json")), 0o644);
    assert_eq!(mode(&device.data().join("account.json")), 0o600);
    let announcement = device.announcement();
    assert!(announcement.password.is_none() && !announcement.made);
}

#[test]
fn the_password_is_wiped_from_the_card_and_still_holds_at_the_next_starts() {
    let device = Device::new();
    let before = golden("good.toml");
    device.put("lucid.toml", &before);
    device.start();
    assert!(!device.on_card("correct horse battery"));
    let after = device.get("lucid.toml").unwrap();
    assert_eq!(after.len(), before.len());
    assert_eq!(Config::parse(&after).unwrap().password, Password::Used);
    assert_eq!(device.get("autoboot.txt").unwrap(), [b'#'; 512]);
    for _ in 0..2 {
        let image = fs::read(device.card()).unwrap();
        let applied = device.start();
        assert!(applied.notes.is_empty(), "{:?}", applied.notes);
        assert_eq!(device.accounts(), account_line("anna", "correct horse battery"));
        assert!(fs::read(device.card()).unwrap() == image, "a start without news writes to the card");
    }
}

#[test]
fn others_are_named_with_their_roles_and_what_was_said_of_them_holds_until_something_else_is() {
    let device = Device::new();
    let file = |bobs: &str| {
        format!(
            "[rdp]\nuser = \"anna\"\npassword = \"correct horse battery\"\n{bobs}[[users]]\nname = \"eve\"\n\
             password = \"(used)\"\nroles = []\n[recording]\nowner = \"{OWNER}\"\n"
        )
    };
    let bob =
        |roles: &str| format!("[[users]]\nname = \"bob\"\npassword = \"quiet otter\"\nroles = [{roles}]\n");
    device.put("lucid.toml", file(&bob("\"operator\", \"approver\"")).as_bytes());
    let applied = device.start();
    assert!(matches!(&applied.notes[..], [note] if note.contains("eve")), "{:?}", applied.notes);
    assert!(!device.on_card("quiet otter") && !device.on_card("correct horse"));
    let after = Config::parse(&device.get("lucid.toml").unwrap()).unwrap();
    assert_eq!((after.password, after.users[0].password.clone()), (Password::Used, Password::Used));
    let hash = |password: &str| Secret::new(password.to_owned()).nt_hash();
    let line = |roles: &str| {
        let (anna, bob) = (hash("correct horse battery"), hash("quiet otter"));
        format!(
            "{{\"version\":1,\"accounts\":[{{\"user\":\"anna\",\"nt_hash\":\"{}\"}},{{\"user\":\"bob\",\"nt_hash\":\"{}\",\
             \"roles\":[{roles}]}}]}}\n",
            anna.expose(),
            bob.expose()
        )
    };
    assert_eq!(device.accounts(), line("\"approver\",\"operator\""));
    assert_eq!(mode(&device.data().join("users.json")), 0o600);
    device.remove("lucid.toml");
    device.start();
    assert_eq!(device.accounts(), line("\"approver\",\"operator\""));
    let used = bob("").replace("quiet otter", "(used)");
    device.put("lucid.toml", file(&used).as_bytes());
    device.start();
    assert_eq!(device.accounts(), line(""));
    device.put("lucid.toml", file("").as_bytes());
    device.start();
    assert_eq!(device.accounts(), account_line("anna", "correct horse battery"));
    // Where nothing is recorded nobody but the first one is known.
    device.put("lucid.toml", bob("\"approver\"").as_bytes());
    let applied = device.start();
    assert!(applied.notes.iter().any(|note| note.contains("[[users]] counts only")), "{:?}", applied.notes);
    let of_rdp = fs::read_to_string(device.run("lucid-provision/rdp-account.json")).unwrap();
    assert_eq!(of_rdp, account_line("anna", "correct horse battery"));
}

#[test]
fn the_password_is_nowhere_in_clear_on_the_disk() {
    let device = Device::new();
    device.put("lucid.toml", &golden("good.toml"));
    device.start();
    let mut files = vec![device.dir.path().to_owned()];
    let mut seen = 0;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(fs::read_dir(path).unwrap().map(|e| e.unwrap().path()));
        } else {
            seen += 1;
            let bytes = fs::read(&path).unwrap();
            assert!(!bytes.windows(21).any(|w| w == b"correct horse battery"), "{}", path.display());
        }
    }
    assert!(seen >= 7, "{seen}");
}

#[test]
fn a_wrong_file_is_left_alone_explained_on_the_card_and_changes_nothing() {
    let device = Device::new();
    device.put("lucid.toml", &golden("good.toml"));
    device.start();
    let wrong = golden("bad/unknown-key.toml");
    device.put("lucid.toml", &wrong);
    let applied = device.start();
    assert!(
        applied.notes.iter().any(|n| n.contains("lucid.toml, line 5, column 1: unknown key")),
        "{:?}",
        applied.notes
    );
    assert_eq!(applied.settings.name, "desk-1");
    assert_eq!(device.accounts(), account_line("anna", "correct horse battery"));
    assert_eq!(device.get("lucid.toml").unwrap(), wrong);
    let answer = String::from_utf8(device.get("lucid-error.txt").unwrap()).unwrap();
    assert!(answer.starts_with("lucid.toml, line 5, column 1: unknown key \"pasword\""), "{answer}");
    assert!(device.announcement().notes.iter().any(|n| n.contains("line 5")));

    // Mended: the message goes.
    device.put("lucid.toml", b"name = \"desk-2\"\n");
    let applied = device.start();
    assert!(applied.notes.is_empty(), "{:?}", applied.notes);
    assert_eq!(applied.settings.name, "desk-2");
    assert_eq!(device.get("lucid-error.txt"), None);
    assert_eq!(device.accounts(), account_line("anna", "correct horse battery"));
}

#[test]
fn a_wrong_file_on_a_new_device_still_gives_a_way_in() {
    let device = Device::new();
    device.put("lucid.toml", &golden("bad/bad-utf8.toml"));
    let applied = device.start();
    assert!(applied.notes.iter().any(|n| n.contains("line 3, column 9")));
    let password = device.announcement().password.unwrap();
    assert_eq!(device.accounts(), account_line("lucid", &password));
}

#[test]
fn a_made_password_is_replaced_until_it_was_shown_and_kept_afterwards() {
    let device = Device::new();
    device.start();
    let first = device.announcement().password.unwrap();
    device.start();
    let second = device.announcement().password.unwrap();
    assert_ne!(first, second);
    lucid_provision::apply::mark_shown(&device.data()).unwrap();
    device.start();
    let third = device.announcement();
    assert!(third.password.is_none() && third.made);
    assert_eq!(device.accounts(), account_line("lucid", &second));
}

#[test]
fn a_file_that_is_removed_leaves_the_device_as_it_was() {
    let device = Device::new();
    device.put("lucid.toml", &golden("good.toml"));
    device.start();
    device.remove("lucid.toml");
    let applied = device.start();
    assert!(applied.notes.is_empty(), "{:?}", applied.notes);
    assert_eq!(applied.settings.name, "desk-1");
    assert_eq!(device.accounts(), account_line("anna", "correct horse battery"));
}

#[test]
fn a_used_password_that_the_device_lost_is_replaced_and_said() {
    let device = Device::new();
    device.put("lucid.toml", &golden("good.toml"));
    device.start();
    fs::remove_dir_all(device.data()).unwrap();
    let applied = device.start();
    assert!(applied.notes.iter().any(|n| n.contains("no longer knows it")), "{:?}", applied.notes);
    let announcement = device.announcement();
    assert_eq!(announcement.user, "anna");
    assert_eq!(device.accounts(), account_line("anna", &announcement.password.unwrap()));
}

#[test]
fn without_a_data_partition_the_password_stays_on_the_card_and_that_is_said() {
    let mut device = Device::new();
    device.data_state = "unavailable";
    device.put("lucid.toml", &golden("good.toml"));
    let applied = device.start();
    assert!(applied.notes.iter().any(|n| n.contains("the data message")), "{:?}", applied.notes);
    assert!(applied.notes.iter().any(|n| n.contains("will not survive a restart")));
    assert!(applied.notes.iter().any(|n| n.contains("stays in lucid.toml")));
    assert_eq!(device.get("lucid.toml").unwrap(), golden("good.toml"));
    assert_eq!(device.accounts(), account_line("anna", "correct horse battery"));
    assert!(!device.data().exists());
}

#[test]
fn a_data_directory_that_cannot_be_written_is_said_and_the_machine_is_reachable() {
    let device = Device::new();
    // A file where the directory should be: as unwritable as a full disk, for every user.
    fs::create_dir_all(device.dir.path().join("data")).unwrap();
    fs::write(device.dir.path().join("data/lucid"), "").unwrap();
    device.put("lucid.toml", &golden("good.toml"));
    let applied = device.start();
    assert!(applied.notes.iter().any(|n| n.contains("will not survive a restart")), "{:?}", applied.notes);
    assert_eq!(device.get("lucid.toml").unwrap(), golden("good.toml"));
    assert_eq!(device.accounts(), account_line("anna", "correct horse battery"));
}

#[test]
fn a_damaged_store_is_said_and_replaced() {
    let device = Device::new();
    device.put("lucid.toml", &golden("good.toml"));
    device.start();
    fs::write(device.data().join("account.json"), b"{\"version\":1").unwrap();
    fs::write(device.data().join("settings.json"), b"\xff").unwrap();
    let applied = device.start();
    assert!(applied.notes.iter().any(|n| n.contains("account.json")), "{:?}", applied.notes);
    assert_eq!(applied.settings.name, "desk-1");
    assert!(device.announcement().password.is_some());
    assert!(Store::new(device.data()).account().unwrap().is_some());
}

#[test]
fn the_updater_is_told_where_releases_come_from_and_when_it_may_restart() {
    let device = Device::new();
    let told = || {
        let text = fs::read_to_string(device.run("lucid-provision/update.env")).unwrap();
        text.lines().skip(1).collect::<String>()
    };
    device.start();
    assert_eq!(told(), r#"LUCID_UPDATE_OPTIONS="--usb --channel=stable --automatic""#);
    assert!(device.run("lucid-provision/usb").exists());
    device.put(
        "lucid.toml",
        b"[update]\nsource = [\"https://a.org/x\", \"http://192.0.2.1\"]\nchannel = \"beta\"\nwindow = \"23:00-01:00\"\n\
          metered = true\n",
    );
    let all = "LUCID_UPDATE_OPTIONS=\"--source=https://a.org/x --source=http://192.0.2.1 --usb --channel=beta --automatic \
               --window=23:00-01:00 --metered\"";
    device.start();
    assert_eq!(told(), all);
    assert_eq!(mode(&device.run("lucid-provision/update.env")), 0o644);
    // It is kept.
    device.remove("lucid.toml");
    device.start();
    assert_eq!(told(), all);
    // Where sessions are recorded, the recorder has to answer.
    let file = format!(
        "[update]\nsource = \"https://a.org\"\nusb = false\nautomatic = false\n[recording]\nowner = \"{OWNER}\"\n"
    );
    device.put("lucid.toml", file.as_bytes());
    device.start();
    let wanted = "LUCID_UPDATE_OPTIONS=\"--source=https://a.org --channel=stable \
                  --sessiond=/run/lucid-sessiond/recorder.sock\"";
    assert_eq!(told(), wanted);
    // Then no driver takes a stick as a disk either.
    assert!(!device.run("lucid-provision/usb").exists());
}

#[test]
fn a_new_system_that_cannot_record_any_more_is_not_kept_without_its_recorder() {
    let mut device = Device::new();
    device.put("lucid.toml", format!("[recording]\nowner = \"{OWNER}\"\n").as_bytes());
    device.start();
    device.var_kept = false;
    device.start();
    assert!(matches!(device.announcement().recording, Recording::Impossible(_)));
    let text = fs::read_to_string(device.run("lucid-provision/update.env")).unwrap();
    assert!(text.contains(" --sessiond=/run/lucid-sessiond/recorder.sock\""), "{text}");
}

#[test]
fn what_a_later_release_stored_besides_is_passed_over_and_stays_until_something_changes() {
    let device = Device::new();
    let file = format!(
        "name = \"desk-1\"\n[rdp]\npassword = \"correct horse battery\"\n[policy]\nprofile = \"standard\"\n\
         [recording]\nowner = \"{OWNER}\"\n[[users]]\nname = \"bob\"\npassword = \"12345678\"\nroles = [\"approver\"]\n"
    );
    device.put("lucid.toml", file.as_bytes());
    let before = device.start().settings;
    let accounts = device.accounts();
    device.remove("lucid.toml");
    let add = |name: &str, places: &[&str]| {
        let path = device.data().join(name);
        let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        for place in places {
            json.pointer_mut(place).unwrap()["of_a_later_release"] = serde_json::json!({"x": [1]});
        }
        let bytes = serde_json::to_vec(&json).unwrap();
        fs::write(&path, &bytes).unwrap();
        (path, bytes)
    };
    let tables = ["", "/network", "/keyboard", "/recording", "/update"];
    let tables = tables.map(|table| format!("/settings{table}"));
    let mut places = vec![""];
    places.extend(tables.iter().map(String::as_str));
    let later =
        [add("settings.json", &places), add("account.json", &[""]), add("users.json", &["", "/users/0"])];
    let applied = device.start();
    assert!(applied.notes.is_empty(), "{:?}", applied.notes);
    assert_eq!(applied.settings, before);
    assert_eq!(device.accounts(), accounts);
    assert_eq!(device.announcement().recording, Recording::Each);
    for (path, bytes) in &later {
        assert!(fs::read(path).unwrap() == *bytes, "{} was written again", path.display());
    }
    // What it would forbid is not known.
    let (path, _) = add("settings.json", &["/settings/policy/input"]);
    let strict = device.start().settings;
    assert_eq!(strict, Settings { policy: Policy::strict(), ..before });
    // Nor does what was changed there become words of a command line.
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    json["settings"]["update"]["sources"] =
        serde_json::json!(["http://a.example --root=/x", "http://b.example\nX=1"]);
    json["settings"]["update"]["window"] = serde_json::json!("always");
    fs::write(&path, serde_json::to_vec(&json).unwrap()).unwrap();
    let notes = device.start().notes;
    assert!(notes.iter().any(|note| note.contains("update.source")), "{notes:?}");
    assert!(notes.iter().any(|note| note.contains("update.window")), "{notes:?}");
    let options = fs::read_to_string(device.run("lucid-provision/update.env")).unwrap();
    assert!(
        !options.contains("--root") && !options.contains("X=1") && !options.contains("always"),
        "{options}"
    );
    // Settings that are said anew are stored as this release knows them.
    device.put("lucid.toml", b"name = \"desk-2\"\n");
    assert_eq!(device.start().settings.name, "desk-2");
    assert!(!fs::read_to_string(&later[0].0).unwrap().contains("of_a_later_release"));
}

const OWNER: &str = "5d0dc4dbb5d1d1a4d8a8f4c84f6fd4b4cf4cdb4b8f09a9ca4ee2e7f2f4c2bb10";
const OBSERVER: &str = "2f83c1b2fbd1e4c9a4e1f5d4a1b7e6c5d4f3a2b1c0d9e8f7a6b5c4d3e2f1a0b9";

impl Device {
    /// What lucid-rdp and lucid-sessiond are told.
    fn told(&self) -> (String, Option<String>) {
        let plain = |text: String| text.lines().skip(1).collect::<String>();
        (
            plain(fs::read_to_string(self.run("lucid-provision/rdp.env")).unwrap()),
            fs::read_to_string(self.run("lucid-provision/recorder.env")).ok().map(plain),
        )
    }

    fn record(&self) {
        let file =
            format!("[recording]\nowner = \"{}\"\nobservers = [\"{OBSERVER}\"]\n", OWNER.to_uppercase());
        self.put("lucid.toml", file.as_bytes());
    }
}

const RECORDED: &str = r#"AUTHORITY="--controller=/run/lucid-sessiond/recorder.sock""#;
const ALONE: &str = "AUTHORITY=\"--policy=/run/lucid-provision/policy.json \
                     --account=/run/credentials/lucid-rdp.service/rdp-account\"";

#[test]
fn with_an_owners_key_each_session_is_recorded_from_then_on_and_without_one_none() {
    let device = Device::new();
    device.start();
    assert_eq!(device.told(), (ALONE.to_owned(), None));
    assert_eq!(device.announcement().recording, Recording::No);
    let of_rdp = || fs::read_to_string(device.run("lucid-provision/rdp-account.json")).unwrap();
    assert_eq!(of_rdp(), device.accounts());
    device.record();
    let recipients = Some(format!("RECIPIENTS=\"--owner={OWNER} --observer={OBSERVER}\""));
    for _ in 0..2 {
        assert!(device.start().notes.is_empty());
        assert_eq!(device.told(), (RECORDED.to_owned(), recipients.clone()));
        assert_eq!(device.announcement().recording, Recording::Each);
        assert_eq!(of_rdp(), "{\"version\":1,\"accounts\":[]}\n", "it asks the recorder");
        assert!(device.accounts().contains("nt_hash"));
        // What was said holds when the file is gone.
        device.put("lucid.toml", b"");
        device.remove("lucid.toml");
    }
    // Applied again without a start, as when the service is restarted.
    device.put("lucid.toml", b"name = \"desk\"\n");
    apply(&device.places()).unwrap();
    assert_eq!(device.told(), (ALONE.to_owned(), None));
}

#[test]
fn where_a_recording_would_not_be_kept_no_session_begins_and_the_reason_is_said() {
    for state in ["ok", "unavailable"] {
        let mut device = Device::new();
        device.data_state = state;
        device.var_kept = false;
        device.record();
        device.start();
        assert_eq!(device.told(), (RECORDED.to_owned(), None));
        let Recording::Impossible(why) = device.announcement().recording else { panic!("{state}") };
        assert!(why.contains("the data message"), "{why}");
    }
}

#[test]
fn when_it_is_not_known_any_more_who_owns_recordings_no_session_begins_until_that_is_said_again() {
    let device = Device::new();
    device.record();
    device.start();
    device.remove("lucid.toml");
    fs::write(device.data().join("settings.json"), b"\xff").unwrap();
    // What cannot be read is not replaced by settings that record nothing.
    for _ in 0..2 {
        device.start();
        assert_eq!(device.told(), (RECORDED.to_owned(), None));
        let Recording::Impossible(why) = device.announcement().recording else { panic!() };
        assert!(why.contains("settings.json") && why.contains("lucid.toml"), "{why}");
    }
    device.record();
    device.start();
    assert_eq!(device.announcement().recording, Recording::Each);
}

#[test]
fn wifi_is_checked_and_said_to_be_unsupported() {
    let device = Device::new();
    let file = b"[network.wifi]\nssid = \"home\"\npassphrase = \"correct horse\"\ncountry = \"DE\"\n";
    device.put("lucid.toml", file);
    let applied = device.start();
    let message = "lucid.toml, line 1, column 10: [network.wifi] is not supported by this image yet";
    assert!(applied.notes.iter().any(|n| n.starts_with(message)), "{:?}", applied.notes);
    assert!(String::from_utf8(device.get("lucid-error.txt").unwrap()).unwrap().starts_with(message));
    assert_eq!(device.get("lucid.toml").unwrap(), file);
}

#[test]
fn a_hidden_file_extension_is_recognised() {
    let device = Device::new();
    device.put("lucid.toml.txt", &golden("good.toml"));
    let applied = device.start();
    assert!(applied.notes.iter().any(|n| n.contains("rename it to lucid.toml")), "{:?}", applied.notes);
    assert!(device.get("lucid-error.txt").is_some());
}

#[test]
fn a_card_that_is_missing_or_not_fat_is_said_and_the_machine_is_reachable() {
    let device = Device::new();
    fs::write(device.card(), vec![0xa5u8; 1 << 20]).unwrap();
    let applied = device.start();
    assert!(applied.notes.iter().any(|n| n.contains("select partition")), "{:?}", applied.notes);
    assert!(device.announcement().password.is_some());
    fs::remove_file(device.card()).unwrap();
    assert!(device.start().notes.iter().any(|n| n.contains("select partition")));
}

#[test]
fn damaged_fat_structures_never_panic_and_never_stop_the_start() {
    let device = Device::new();
    device.put("lucid.toml", &golden("good.toml"));
    let good = fs::read(device.card()).unwrap();
    let mut state = 0x0123_4567_89ab_cdefu64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    let mut image = File::options().write(true).open(device.card()).unwrap();
    // Boot sector, FATs, root directory and lucid.toml lie in the first 64 KiB.
    let good = &good[..64 * 1024];
    for round in 0..200 {
        let mut head = good.to_vec();
        for _ in 0..=next() % 4 {
            let area = if round % 2 == 0 { 64 } else { head.len() };
            let at = next() % area;
            head[at] = next() as u8;
        }
        image.seek(SeekFrom::Start(0)).unwrap();
        image.write_all(&head).unwrap();
        device.start();
        assert!(device.accounts().contains("nt_hash"));
    }
}
