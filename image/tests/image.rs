//! Properties of the image's parts, each against a real tool of the machine. The whole image is
//! tested by `scripts/test image`; what needs one here reads it from the directory that
//! `LUCID_IMAGE` names and is marked as ignored without it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::Command;

use lucid_image::build::changing;
use lucid_image::fat::Place;
use lucid_image::identity::{Identity, Root};
use lucid_image::layout::{self, DISK_GUID, PARTITIONS};
use lucid_image::verity::{self, BLOCK, Parameters};
use lucid_image::{cpio, disk, tree, verify};
use lucid_release_format::System;

/// Repeatable bytes without a pattern that a tree could hide behind.
fn noise(blocks: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(blocks * BLOCK)
    .collect()
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn the_hash_tree_is_byte_for_byte_that_of_veritysetup() {
    let directory = tempfile::tempdir().unwrap();
    let salt = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    // Either side of what one and two levels hold.
    for blocks in [2, 127, 128, 129, 1000, 128 * 128, 128 * 128 + 1] {
        let data = noise(blocks);
        let path = directory.path().join("data");
        fs::write(&path, &data).unwrap();
        let text = output(
            Command::new("veritysetup")
                .args(["format", "--no-superblock", "--format=1", "--hash=sha256", "--data-block-size=4096"])
                .args([
                    "--hash-block-size=4096",
                    &format!("--salt={salt}"),
                    &format!("--data-blocks={blocks}"),
                ])
                .arg(format!("--hash-offset={}", blocks * BLOCK))
                .args([&path, &path]),
        );
        let root = text.lines().find_map(|line| line.strip_prefix("Root hash:")).unwrap().trim().to_owned();
        let tree = verity::tree(&data, &hex::decode(salt).unwrap());
        assert_eq!(hex::encode(tree.root), root, "{blocks} blocks");
        assert!(fs::read(&path).unwrap()[blocks * BLOCK..] == tree.blocks, "{blocks} blocks");
    }
}

#[test]
fn a_flipped_bit_in_any_block_is_found_and_named() {
    let data = noise(300);
    let tree = verity::tree(&data, b"salt");
    let parameters = Parameters { data_blocks: 300, salt: b"salt".to_vec(), root: tree.root };
    let good = [data, tree.blocks].concat();
    assert_eq!(good.len() as u64, (300 + parameters.hash_blocks()) * BLOCK as u64);
    parameters.check(&good).unwrap();
    for block in 0..good.len() / BLOCK {
        let byte = block * BLOCK + (block * 37) % BLOCK;
        let mut bad = good.clone();
        bad[byte] ^= 0x10;
        let why = parameters.check(&bad).unwrap_err();
        assert!(why.contains(&format!("at byte {} ", block * BLOCK)), "byte {byte}: {why}");
    }
}

#[test]
fn what_a_command_line_names_is_read_back() {
    let parameters = Parameters { data_blocks: 5979, salt: vec![1, 2, 255], root: [7; 32] };
    let line = format!("console=tty0 lucid.verity={} panic=10\n", parameters.to_argument());
    assert_eq!(Parameters::parse(&line), Ok(parameters));
    for bad in ["", "lucid.verity=v2,1,00,00", "lucid.verity=v1,x,00,00", "lucid.verity=v1,1,00,07"] {
        assert!(Parameters::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_partition_table_is_the_layout_and_other_tools_read_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    disk::create(&path, &PARTITIONS, DISK_GUID, layout::disk_bytes()).unwrap();
    disk::check_table(&path).unwrap();
    let listed = output(Command::new("sfdisk").arg("--dump").arg(&path));
    let partitions: Vec<String> = listed
        .lines()
        .filter(|line| line.contains("start="))
        .map(|line| {
            let field =
                |key: &str| line.split_once(key).unwrap().1.split(',').next().unwrap().trim().to_owned();
            format!("{} {} {}", field("start="), field("size="), field("name="))
        })
        .collect();
    assert_eq!(
        partitions,
        [
            "2048 16384 \"select\"",
            "18432 262144 \"boot-a\"",
            "280576 262144 \"boot-b\"",
            "542720 524288 \"root-a\"",
            "1067008 524288 \"root-b\"",
            "1591296 131072 \"data\"",
        ]
    );
}

#[test]
fn a_fat_is_reproducible_and_sound_and_gives_back_what_was_put() {
    let directory = tempfile::tempdir().unwrap();
    for mib in [8, 128] {
        let make = |name: &str| {
            let path = directory.path().join(name);
            fs::File::create(&path).unwrap().set_len(mib << 20).unwrap();
            let place = Place { disk: &path, name: "test", start: 0, bytes: mib << 20 };
            place.format(7, "test").unwrap();
            place.put("lucid.toml", &noise(3)).unwrap();
            place.put("lucid.toml", b"name = \"x\"\n").unwrap();
            place.put("bcm2712d0-rpi-5-b.dtb", &noise(5)).unwrap();
            assert_eq!(place.get("lucid.toml").unwrap(), b"name = \"x\"\n");
            assert_eq!(place.get("bcm2712d0-rpi-5-b.dtb").unwrap(), noise(5));
            assert!(place.get("absent").is_err());
            path
        };
        let (one, two) = (make("one"), make("two"));
        assert!(fs::read(&one).unwrap() == fs::read(&two).unwrap(), "{mib} MiB");
        output(Command::new("fsck.fat").arg("-n").arg(&one));
    }
}

#[test]
fn autoboot_is_one_full_sector_that_ends_in_blank_lines() {
    let text =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../firmware/autoboot.txt")).unwrap();
    let sector = layout::autoboot(&text).unwrap();
    let read = std::str::from_utf8(&sector).unwrap();
    assert_eq!(read.trim_end(), "[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3");
    assert!(read.len() == 512 && read.ends_with("\n\n"));
    assert_eq!(layout::autoboot(&"x".repeat(513)), None);
}

#[test]
fn the_initramfs_is_laid_out_as_the_kernel_reads_it() {
    let mut archive = cpio::Archive::default();
    archive.directory("modules").unwrap();
    archive.file("init", 0o755, b"12345").unwrap();
    archive.character("dev/console", 0o600, 5, 1).unwrap();
    let bytes = archive.finish().unwrap();
    assert_eq!(bytes.len() % 4, 0);
    // magic, inode, mode, owner, group, links, time, size, device (2), device node (2), name size, check
    let header = |from: usize| std::str::from_utf8(&bytes[from..from + 110]).unwrap().to_owned();
    assert_eq!(
        header(0),
        "070701000000010000\
         41ed000000000000000000000001000000000000000000000000000000000000000000000000\
         0000000800000000"
    );
    assert_eq!(&bytes[110..118], b"modules\0");
    // 110 + 8 = 118, padded to 120.
    assert!(header(120).starts_with("07070100000002000081ed"));
    assert_eq!(&bytes[230..235], b"init\0");
    assert_eq!(&bytes[236..244], b"12345\0\0\0");
    assert_eq!(&header(244)[78..94], "0000000500000001");
    assert!(bytes.ends_with(b"TRAILER!!!\0\0\0\0"));
}

/// A root that asks for so many signatures and has so many, with more members.
fn root(asks: u64, has: usize, more: &str) -> String {
    let signatures = vec![r#"{"keyid":"00","sig":"00"}"#; has].join(",");
    format!(
        r#"{{"signatures":[{signatures}],"signed":{{"_type":"root","roles":{{"root":{{"keyids":["00"],"threshold":{asks}}}}}{more}}}}}"#
    )
}

const DEVELOPMENT: &str = r#","lucid-development":true"#;

#[test]
fn a_root_for_development_is_refused_unless_that_is_what_is_wanted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("1.root.json");
    // Whatever the mark's value is, it marks.
    for mark in [DEVELOPMENT, r#","lucid-development":false"#, r#","lucid-development":null"#] {
        fs::write(&path, root(1, 1, mark)).unwrap();
        let why = Root::read(&path, false).unwrap_err().to_string();
        assert!(why.contains("for development") && why.contains("--development"), "{why}");
        assert!(Root::read(&path, true).unwrap().development);
    }
    for wanted in [false, true] {
        fs::write(&path, root(3, 3, "")).unwrap();
        let read = Root::read(&path, wanted).unwrap();
        assert!(!read.development);
        assert_eq!(read.bytes, root(3, 3, "").as_bytes());
    }
}

#[test]
fn a_root_is_known_by_what_is_signed_of_it_whoever_has_signed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("1.root.json");
    let known_by = |text: &str| {
        fs::write(&path, text).unwrap();
        Root::read(&path, true).unwrap().signed_sha256
    };
    let usual = known_by(&root(3, 3, ""));
    assert_eq!(usual.len(), 64);
    assert_eq!(known_by(&root(3, 4, "")), usual, "one more has signed");
    let spread: serde_json::Value = serde_json::from_str(&root(3, 3, "")).unwrap();
    assert_eq!(known_by(&serde_json::to_string_pretty(&spread).unwrap()), usual);
    assert_ne!(known_by(&root(2, 3, "")), usual);
    assert_ne!(known_by(&root(3, 3, ",\"x\":1")), usual);
}

#[test]
fn contents_follow_an_image_that_is_changed_and_no_other() {
    use sha2::{Digest as _, Sha256};
    let directory = tempfile::tempdir().unwrap();
    let (image, contents) = (directory.path().join("lucid.img"), directory.path().join("contents.json"));
    let change = |to: &str| {
        let write = || {
            fs::write(&image, to).unwrap();
            Ok(())
        };
        changing(&image, write).unwrap();
    };
    fs::write(&image, "one").unwrap();
    change("two");
    assert!(!contents.exists(), "there was none");
    let text = |image: &str| {
        format!("{{\n  \"version\": 1,\n  \"image_sha256\": \"{}\"\n}}\n", hex::encode(Sha256::digest(image)))
    };
    fs::write(&contents, text("two")).unwrap();
    change("three");
    assert_eq!(fs::read_to_string(&contents).unwrap(), text("three"));
    fs::write(&contents, text("another")).unwrap();
    change("four");
    assert_eq!(fs::read_to_string(&contents).unwrap(), text("another"));
}

#[test]
fn what_no_device_would_believe_is_no_root() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("1.root.json");
    let large = root(1, 1, &format!(",\"x\":\"{}\"", "x".repeat(65_536)));
    let targets = root(1, 1, "").replace("\"root\",", "\"targets\",");
    for (text, why) in [
        (root(3, 2, ""), "has 2 signatures and asks for 3"),
        (root(0, 0, ""), "has 0 signatures and asks for 0"),
        (targets, "its type is another one"),
        ("{\"signed\": 7}".to_owned(), "no object"),
        ("[]".to_owned(), "no object"),
        ("-----BEGIN KEY".to_owned(), "is no root of trust"),
        (large, "more than 65536 bytes"),
    ] {
        fs::write(&path, &text).unwrap();
        let said = Root::read(&path, true).unwrap_err().to_string();
        assert!(said.contains(why) && said.contains("1.root.json"), "{text:.60}: {said}");
    }
}

#[test]
fn what_an_image_says_of_itself_is_what_the_device_reads() {
    let root = Root { bytes: Vec::new(), development: false, signed_sha256: String::new() };
    let identity =
        Identity { machine: "qemu-arm64".parse().unwrap(), version: "0.2.0".parse().unwrap(), root };
    let bytes = identity.system(1_767_225_600).to_bytes();
    assert_eq!(System::from_bytes(&bytes).unwrap(), identity.system(1_767_225_600));
    assert!(String::from_utf8(bytes).unwrap().contains("\"version\":\"0.2.0\",\"built\":1767225600"));
}

#[test]
fn what_is_for_tests_is_refused_in_an_image_for_others() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("1.root.json");
    fs::write(&path, root(1, 1, "")).unwrap();
    for change in ["--overlay=x", "--append=quiet"] {
        let mut build = Command::new(env!("CARGO_BIN_EXE_lucid-image"));
        build.args(["build", "--services", "x", "--version", "1.0.0", "--machine", "m", change]);
        let output = build.arg("--root").arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("--development"), "{said}");
    }
}

#[test]
fn what_is_laid_over_an_image_is_known_by_all_that_is_in_it() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let make = |change: &dyn Fn(&Path)| {
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("usr/bin");
        fs::create_dir_all(&inside).unwrap();
        fs::write(inside.join("program"), "1").unwrap();
        symlink("program", inside.join("other")).unwrap();
        change(&inside);
        tree::digest(directory.path()).unwrap()
    };
    let plain = make(&|_| {});
    assert_eq!((plain.len(), &plain), (64, &make(&|_| {})));
    let changes: [&dyn Fn(&Path); 4] = [
        &|inside| fs::write(inside.join("program"), "2").unwrap(),
        &|inside| fs::rename(inside.join("program"), inside.join("another")).unwrap(),
        &|inside| fs::set_permissions(inside.join("program"), fs::Permissions::from_mode(0o755)).unwrap(),
        &|inside| fs::create_dir(inside.join("empty")).unwrap(),
    ];
    for change in changes {
        assert_ne!(make(change), plain);
    }
}

#[test]
#[ignore = "needs a built image: set LUCID_IMAGE to its directory and run with --run-ignored all"]
fn a_built_image_verifies_and_one_with_a_flipped_byte_does_not() {
    let built = std::env::var_os("LUCID_IMAGE").expect("LUCID_IMAGE names the directory of a built image");
    let image = Path::new(&built).join("lucid.img");
    let verified = verify::verify(&image).unwrap();
    assert_eq!(verified.iter().map(|slot| slot.slot).collect::<String>(), "ab");
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("lucid.img");
    output(Command::new("cp").arg("--sparse=always").arg(&image).arg(&copy));
    let root = layout::by_name("root-b").unwrap();
    let used = usize::try_from(verified[1].bytes).unwrap();
    // Data, hash tree, and the unused rest.
    for byte in [0, used / 2, used - 1, used + 5] {
        let mut contents = disk::read(&copy, root).unwrap();
        contents[byte] ^= 1;
        disk::write(&copy, root, &contents, "the root").unwrap();
        let why = verify::verify(&copy).unwrap_err().to_string();
        assert!(why.starts_with("slot b: "), "byte {byte}: {why}");
        contents[byte] ^= 1;
        disk::write(&copy, root, &contents, "the root").unwrap();
    }
    verify::verify(&copy).unwrap();
}
