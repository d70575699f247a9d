//! The one sector of `autoboot.txt`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod support;

use std::io::{Cursor, Read as _};

use lucid_updated::{
    Error,
    autoboot::{self, SIZE},
    boot::{Arming, BootControl, Machine, Slot},
};
use support::machine::{Power, Random, SimDisk, fat};

fn disk(bytes: Vec<u8>) -> SimDisk {
    SimDisk::new(&Power::new(u64::MAX, 1), bytes)
}

#[test]
fn its_sector_is_found_and_overwritten_in_place() {
    let select = disk(fat(&autoboot::text(Slot::A)));
    let before = select.bytes();
    let at = autoboot::find(&select).unwrap() as usize;
    assert_eq!(before[at..at + SIZE], autoboot::text(Slot::A));
    autoboot::write(&select, Slot::B).unwrap();
    let after = select.bytes();
    assert_eq!((&before[..at], &before[at + SIZE..]), (&after[..at], &after[at + SIZE..]));
    assert_eq!(autoboot::read(&select).unwrap(), Slot::B);
    // And the file system says the same.
    let fs = fatfs::FileSystem::new(Cursor::new(after), fatfs::FsOptions::new()).unwrap();
    let mut text = Vec::new();
    fs.root_dir().open_file("AUTOBOOT.TXT").unwrap().read_to_end(&mut text).unwrap();
    assert_eq!(text, autoboot::text(Slot::B));
}

#[test]
fn it_is_found_on_every_kind_of_fat() {
    for (kind, size) in [
        (fatfs::FatType::Fat12, 1 << 20),
        (fatfs::FatType::Fat16, 16 << 20),
        (fatfs::FatType::Fat32, 64 << 20),
    ] {
        let mut image = Cursor::new(vec![0; size]);
        let options = fatfs::FormatVolumeOptions::new().fat_type(kind).bytes_per_cluster(512);
        fatfs::format_volume(&mut image, options).unwrap();
        {
            use std::io::Write as _;
            let fs = fatfs::FileSystem::new(&mut image, fatfs::FsOptions::new()).unwrap();
            assert_eq!(fs.fat_type(), kind);
            // More entries than a cluster of the root directory has.
            for number in 0..40 {
                fs.root_dir().create_file(&format!("a rather long name, number {number}")).unwrap();
            }
            let mut file = fs.root_dir().create_file("autoboot.txt").unwrap();
            file.write_all(&autoboot::text(Slot::B)).unwrap();
            file.flush().unwrap();
        }
        let select = disk(image.into_inner());
        assert_eq!(autoboot::read(&select).unwrap(), Slot::B, "{kind:?}");
        autoboot::write(&select, Slot::A).unwrap();
        assert_eq!(autoboot::read(&select).unwrap(), Slot::A, "{kind:?}");
    }
}

#[test]
fn a_file_of_another_size_or_none_at_all_is_refused() {
    for text in [&b""[..], b"[all]\ntryboot_a_b=1\nboot_partition=2\n", &[b'\n'; 513]] {
        let error = autoboot::write(&disk(fat(text)), Slot::B).unwrap_err();
        assert!(matches!(error, Error::Autoboot(_)), "{error}");
    }
    assert!(autoboot::find(&disk(vec![0; 1 << 20])).is_err());
    assert!(autoboot::find(&disk(Vec::new())).is_err());
}

#[test]
fn whatever_else_the_partition_holds_nothing_outside_of_it_is_named() {
    let (mut random, good) = (Random(7), fat(&autoboot::text(Slot::A)));
    for _ in 0..2000 {
        let mut bytes = good[..64 << 10].to_vec();
        for _ in 0..random.next() % 8 + 1 {
            let at = random.next() as usize % 512;
            bytes[at] = random.next() as u8;
        }
        if let Ok(at) = autoboot::find(&disk(bytes)) {
            assert!(at as usize + SIZE <= 64 << 10);
        }
    }
}

#[test]
fn a_cut_while_it_is_written_leaves_the_old_text_or_the_new_one() {
    let mut seen = [false; 2];
    for seed in 0..40 {
        for left in 0..2 {
            let power = Power::new(left, seed);
            let select = SimDisk::new(&power, fat(&autoboot::text(Slot::A)));
            assert!(autoboot::write(&select, Slot::B).is_err());
            select.cut();
            seen[usize::from(autoboot::read(&select).unwrap() == Slot::B)] = true;
        }
    }
    assert_eq!(seen, [true; 2]);
}

#[test]
fn a_try_is_armed_for_the_other_slot_alone_on_a_pi_and_on_its_stand_in() {
    let dir = tempfile::tempdir().unwrap();
    let (argument, firmware, boot) =
        (dir.path().join("systemd/reboot-param"), dir.path().join("firmware"), dir.path().join("boot.json"));
    std::fs::write(&firmware, fat(b"")).unwrap();
    std::fs::write(
        &boot,
        r#"{"slot":"a","partition":2,"tryboot":false,"disk":"/dev/vdb","select":null,"data":{"state":"ok","var_kept":true}}"#,
    )
    .unwrap();
    for arming in [Arming::Pi { argument: argument.clone() }, Arming::StandIn { firmware: firmware.clone() }]
    {
        let select = std::sync::Arc::new(disk(fat(&autoboot::text(Slot::A))));
        let machine = Machine { boot: boot.clone(), select, arming, built: dir.path().join("built") };
        assert_eq!(machine.booted().unwrap().slot, Slot::A);
        assert!(matches!(machine.arm(Slot::A), Err(Error::Arm { .. })));
        machine.arm(Slot::B).unwrap();
        machine.arm(Slot::B).unwrap();
    }
    assert_eq!(std::fs::read(argument).unwrap(), b"0 tryboot");
    let image = Cursor::new(std::fs::read(firmware).unwrap());
    let fs = fatfs::FileSystem::new(image, fatfs::FsOptions::new()).unwrap();
    let mut flag = String::new();
    fs.root_dir().open_file("tryboot").unwrap().read_to_string(&mut flag).unwrap();
    assert_eq!(flag, "1\n");
}
