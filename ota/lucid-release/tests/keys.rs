//! Keys and their files.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use lucid_release::Error;
use lucid_release::key::{Passphrase, PublicKey, SecretKey, key_id};
use zeroize::Zeroizing;

fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(Zeroizing::new(text.to_owned())).unwrap()
}

#[test]
fn a_key_opens_with_its_passphrase_only() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ada.key");
    let right = passphrase("five words are quite enough");
    let key = SecretKey::create(&file, &right).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    let opened = SecretKey::open(&file, &right).unwrap();
    assert_eq!(opened.public(), key.public());
    assert!(key.public().verifies(b"message", &opened.sign(b"message")));
    assert!(!key.public().verifies(b"massage", &opened.sign(b"message")));
    assert_eq!(SecretKey::public_of(&file).unwrap(), key.public());

    for wrong in ["five words are quite enough ", "Five words are quite enough", "x"] {
        let error = SecretKey::open(&file, &passphrase(wrong)).unwrap_err();
        assert!(matches!(error, Error::NotOpened(_)), "{error}");
    }
    let error = SecretKey::create(&file, &right).unwrap_err();
    assert!(matches!(error, Error::KeyExists(_)), "{error}");
    assert_eq!(format!("{key:?}"), format!("SecretKey({})", key.public()));
    assert_eq!(format!("{right:?}"), "Passphrase");
}

#[test]
fn a_key_file_that_was_changed_does_not_open() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ada.key");
    let right = passphrase("five words are quite enough");
    SecretKey::create(&file, &right).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    let good: serde_json::Value = serde_json::from_str(&text).unwrap();
    for field in ["public", "salt", "nonce", "sealed"] {
        let mut changed = good.clone();
        let digits = good[field].as_str().unwrap();
        let first = if digits.starts_with('0') { '1' } else { '0' };
        changed[field] = format!("{first}{}", &digits[1..]).into();
        fs::write(&file, changed.to_string()).unwrap();
        let error = SecretKey::open(&file, &right).unwrap_err();
        assert!(matches!(error, Error::NotOpened(_)), "{field}: {error}");
    }
    let later = text.replace("\"format\": 1", "\"format\": 2");
    for text in ["", "{}", later.as_str(), &text[..text.len() - 3]] {
        fs::write(&file, text).unwrap();
        let error = SecretKey::open(&file, &right).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{error}");
    }
    fs::write(&file, vec![b' '; 5000]).unwrap();
    assert!(matches!(SecretKey::open(&file, &right), Err(Error::TooLarge { .. })));
}

#[test]
fn a_new_key_has_a_passphrase_that_takes_long_to_guess() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ada.key");
    let error = SecretKey::create(&file, &passphrase("too short")).unwrap_err();
    assert!(matches!(error, Error::Passphrase(_)), "{error}");
    assert!(!file.exists());
    assert!(Passphrase::new(Zeroizing::default()).is_err());
}

#[test]
fn a_passphrase_is_the_first_line_of_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let (file, words) = (folder.path().join("ada.key"), folder.path().join("words"));
    fs::write(&words, "five words are quite enough\nand something else\n").unwrap();
    SecretKey::create(&file, &Passphrase::read(&words).unwrap()).unwrap();
    SecretKey::open(&file, &passphrase("five words are quite enough")).unwrap();
    fs::write(&words, "\nfive\n").unwrap();
    assert!(Passphrase::read(&words).is_err());
    fs::write(&words, [0xff, 0xfe]).unwrap();
    assert!(Passphrase::read(&words).is_err());
}

#[test]
fn keys_and_ids_are_64_digits() {
    // RFC 8032, section 7.1, test 1.
    let seed = hex::decode("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60").unwrap();
    let key = SecretKey::from_seed(&seed.try_into().unwrap()).unwrap();
    let text = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    assert_eq!(key.public().to_string(), text);
    assert_eq!(text.parse::<PublicKey>().unwrap(), key.public());
    assert_eq!(
        hex::encode(key.sign(b"")),
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd\
         25bf5f0595bbe24655141438e7a100b"
    );
    let id = key.public().id().unwrap();
    assert_eq!(key_id(&hex::encode(&id)).unwrap(), id);
    let (longer, strange) = (format!("{text}0"), text.replace('d', "g"));
    for bad in ["", "d75a", &text[1..], longer.as_str(), strange.as_str()] {
        assert!(bad.parse::<PublicKey>().is_err() && key_id(bad).is_err(), "{bad}");
    }
}
