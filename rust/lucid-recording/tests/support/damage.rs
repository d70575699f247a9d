//! Damages to recordings, the same for the same seed, each with what a verification has to say of it.
//!
//! The statements that are forged here are written and signed by other code than the crate's.

use std::{collections::BTreeSet, path::Path};

use lucid_recording::chunk::file_name;
use ring::signature::Ed25519KeyPair;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Files, SMALL, Sample, Seeded, load, plain, with_gap};

/// What a verification without any secret key has to say.
#[derive(Clone, Debug, Serialize)]
pub struct Expected {
    /// The directory.
    pub name: String,
    /// Of which good recording it was made.
    pub base: &'static str,
    /// What was done to it.
    pub what: String,
    /// The device's key that the verification is given.
    pub device: Option<String>,
    /// `sound`, `unfinished`, `damaged`; or `any`, where a key is needed to see it.
    pub verdict: &'static str,
    /// Just these files are named, by their names; with the verdict `any`, these or none.
    pub files: BTreeSet<String>,
}

/// Good recordings.
pub struct Sources {
    bases: Vec<(&'static str, Files)>,
    /// Of another session, by the same device for the same owner.
    other: Files,
}

impl Sources {
    pub fn make(scratch: &Path) -> Self {
        let (plain, _) = plain(scratch, "damage, plain", 8);
        let (gap, _) = with_gap(scratch, "damage, with a gap");
        let (other, _) = super::plain(scratch, "damage, another session", 9);
        // As it is when the power goes right after a commit.
        let mut sample = Sample::create(scratch, "damage, unfinished", SMALL);
        for _ in 0..7 {
            sample.second(true);
            sample.commit();
        }
        let unfinished = sample.writer.dir().to_owned();
        drop(sample);
        Self {
            bases: vec![("plain", load(&plain)), ("gap", load(&gap)), ("unfinished", load(&unfinished))],
            other: load(&other),
        }
    }

    /// The good recordings themselves.
    pub fn good(&self) -> impl Iterator<Item = (Expected, &Files)> {
        self.bases.iter().map(|(base, files)| {
            let verdict = if *base == "unfinished" { "unfinished" } else { "sound" };
            let expected = Expected {
                name: format!("good-{base}"),
                base,
                what: "nothing".to_owned(),
                device: None,
                verdict,
                files: BTreeSet::new(),
            };
            (expected, files)
        })
    }

    /// The damage with this number.
    pub fn damage(&self, number: usize) -> (Expected, Files) {
        let mut random = Seeded::new(&format!("damage {number}"));
        loop {
            let (base, original) = &self.bases[random.below(self.bases.len())];
            let mut damage = Damage {
                finished: *base != "unfinished",
                chunks: original.keys().filter(|name| name.starts_with("chunk-")).count(),
                files: original.clone(),
                other: &self.other,
                random: &mut random,
                named: BTreeSet::new(),
                verdict: "damaged",
                device: None,
            };
            let Some(what) = damage.random() else { continue };
            if damage.files == *original {
                continue;
            }
            let expected = Expected {
                name: format!("{number:05}-{}", what.split(' ').next().unwrap()),
                base,
                what,
                device: damage.device,
                verdict: damage.verdict,
                files: damage.named,
            };
            return (expected, damage.files);
        }
    }
}

struct Damage<'a> {
    finished: bool,
    chunks: usize,
    files: Files,
    other: &'a Files,
    random: &'a mut Seeded,
    named: BTreeSet<String>,
    verdict: &'static str,
    device: Option<String>,
}

const STATEMENTS: [&str; 3] = ["opening.json", "heads.jsonl", "manifest.json"];

impl Damage<'_> {
    fn name(&mut self, file: impl Into<String>) {
        self.named.insert(file.into());
    }

    fn chunk(&mut self) -> String {
        file_name(self.random.below(self.chunks) as u32)
    }

    fn file(&mut self) -> String {
        // Chunks are most of the bytes, and statements most of the rules.
        let statement = STATEMENTS[self.random.below(3)].to_owned();
        if self.random.below(2) == 0 && self.files.contains_key(&statement) {
            statement
        } else {
            self.chunk()
        }
    }

    fn lines(&self) -> Vec<Vec<u8>> {
        self.files["heads.jsonl"].split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
    }

    fn set_lines(&mut self, lines: &[Vec<u8>]) {
        self.files.insert("heads.jsonl".to_owned(), lines.concat());
        self.name("heads.jsonl");
    }

    /// Does something; none when it cannot be done to this recording.
    fn random(&mut self) -> Option<String> {
        match self.random.below(22) {
            0..=3 => self.flip(),
            4 | 5 => self.cut(),
            6 => self.drop(),
            7 => self.repeat(),
            8 => self.swap(),
            9 => self.shift(),
            10 => self.of_another_session(),
            11 => self.splice(),
            12 | 13 => self.heads(),
            14 | 15 => self.edit_manifest(),
            16 | 17 => self.forge_head(),
            18 => self.version(),
            19 => self.inside(),
            20 => self.forge_all(),
            _ => self.keys(),
        }
    }

    fn flip(&mut self) -> Option<String> {
        let file = self.file();
        let bytes = self.files.get_mut(&file)?;
        let at = self.random.below(bytes.len());
        let bit = self.random.below(8);
        if file == "heads.jsonl" && !self.finished && at + 1 == bytes.len() {
            // Without its line feed, the last line is what a power cut leaves.
            self.verdict = "unfinished";
        } else {
            self.named.insert(file.clone());
        }
        self.files.get_mut(&file)?[at] ^= 1 << bit;
        Some(format!("flip bit {bit} of byte {at} of {file}"))
    }

    fn cut(&mut self) -> Option<String> {
        let file = self.file();
        let bytes = self.files.get_mut(&file)?;
        let most = if self.random.below(2) == 0 { bytes.len() } else { bytes.len().min(60) };
        let count = 1 + self.random.below(most);
        bytes.truncate(bytes.len() - count);
        let first = bytes.iter().position(|byte| *byte == b'\n');
        if file == "heads.jsonl" && !self.finished && first.is_some() {
            // Of a recording without a manifest, the end is missed by nobody.
            self.verdict = "unfinished";
        } else {
            self.name(&*file);
        }
        Some(format!("cut {count} bytes off {file}"))
    }

    fn drop(&mut self) -> Option<String> {
        let file = if self.random.below(5) == 0 { "keys.json".to_owned() } else { self.file() };
        self.files.remove(&file)?;
        if file == "manifest.json" {
            self.verdict = "unfinished";
        } else {
            self.name(&*file);
        }
        Some(format!("drop {file}"))
    }

    fn repeat(&mut self) -> Option<String> {
        let from = self.chunk();
        let to = if self.random.below(2) == 0 && self.finished {
            file_name((self.chunks + self.random.below(2)) as u32)
        } else {
            self.chunk()
        };
        self.files.insert(to.clone(), self.files[&from].clone());
        self.name(&*to);
        Some(format!("repeat {from} as {to}"))
    }

    fn swap(&mut self) -> Option<String> {
        let (a, b) = (self.chunk(), self.chunk());
        let (of_a, of_b) = (self.files[&a].clone(), self.files[&b].clone());
        self.files.insert(a.clone(), of_b);
        self.files.insert(b.clone(), of_a);
        self.name(&*a);
        self.name(&*b);
        Some(format!("swap {a} and {b}"))
    }

    fn shift(&mut self) -> Option<String> {
        let first = self.random.below(self.chunks);
        let last = self.chunks - 1;
        let around = self.random.below(2) == 0;
        let kept = self.files.remove(&file_name(first as u32))?;
        for index in first..last {
            let bytes = self.files.remove(&file_name(index as u32 + 1))?;
            self.files.insert(file_name(index as u32), bytes);
        }
        if around {
            self.files.insert(file_name(last as u32), kept);
        }
        (first..=last).for_each(|index| self.name(file_name(index as u32)));
        let how = if around { "reorder" } else { "remove" };
        Some(format!("{how} {} and move up what follows", file_name(first as u32)))
    }

    fn of_another_session(&mut self) -> Option<String> {
        let (from, to) = (self.chunk(), self.chunk());
        self.files.insert(to.clone(), self.other.get(&from)?.clone());
        self.name(&*to);
        Some(format!("replace {to} by {from} of another session"))
    }

    fn splice(&mut self) -> Option<String> {
        let take = |damage: &mut Self, file: &str| {
            damage.files.insert(file.to_owned(), damage.other[file].clone());
        };
        match self.random.below(if self.finished { 5 } else { 1 }) {
            0 => {
                let at = self.random.below(self.lines().len());
                let mut lines = self.lines();
                let other = &self.other["heads.jsonl"];
                let other: Vec<_> =
                    other.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
                lines.truncate(at);
                lines.extend_from_slice(other.get(at..)?);
                self.set_lines(&lines);
                Some(format!("splice the lines of another session from line {} on", at + 1))
            }
            1 => {
                take(self, "heads.jsonl");
                self.name("heads.jsonl");
                Some("splice heads.jsonl of another session".to_owned())
            }
            2 => {
                take(self, "manifest.json");
                self.name("manifest.json");
                Some("splice manifest.json of another session".to_owned())
            }
            3 => {
                take(self, "opening.json");
                // The opening is good; what does not belong to it is everything else.
                ["heads.jsonl", "manifest.json", "keys.json"].iter().for_each(|file| self.name(*file));
                (0..self.chunks).for_each(|index| self.name(file_name(index as u32)));
                Some("splice opening.json of another session".to_owned())
            }
            _ => {
                let first = self.random.below(self.chunks);
                take(self, "heads.jsonl");
                take(self, "manifest.json");
                self.name("heads.jsonl");
                self.name("manifest.json");
                for index in first..self.chunks.max(self.other.len()) {
                    let name = file_name(index as u32);
                    self.files.remove(&name);
                    if let Some(bytes) = self.other.get(&name) {
                        self.files.insert(name.clone(), bytes.clone());
                        self.name(&*name);
                    }
                }
                Some(format!("splice another session to it from {} on", file_name(first as u32)))
            }
        }
    }

    fn heads(&mut self) -> Option<String> {
        let mut lines = self.lines();
        let at = self.random.below(lines.len());
        let to = self.random.below(lines.len());
        let last = at + 1 == lines.len();
        let what = match self.random.below(4) {
            0 => {
                lines.remove(at);
                if last && !self.finished {
                    self.verdict = "unfinished";
                    self.files.insert("heads.jsonl".to_owned(), lines.concat());
                    return Some("lines: drop the last one".to_owned());
                }
                format!("lines: drop {}", at + 1)
            }
            1 => {
                let line = lines[at].clone();
                lines.insert(to, line);
                format!("lines: repeat {} at {}", at + 1, to + 1)
            }
            2 => {
                lines.swap(at, to);
                format!("lines: swap {} and {}", at + 1, to + 1)
            }
            _ => {
                let line = lines.remove(at);
                lines.insert(to, line);
                format!("lines: move {} to {}", at + 1, to + 1)
            }
        };
        self.set_lines(&lines);
        Some(what)
    }

    fn edit_manifest(&mut self) -> Option<String> {
        let mut statement: Value = serde_json::from_slice(self.files.get("manifest.json")?).ok()?;
        let body = &mut statement["body"];
        let chunk = self.random.below(self.chunks);
        let what = match self.random.below(9) {
            0 => change(&mut body["chunks"][chunk]["hash"]),
            1 => change(&mut body["chunks"][chunk]["size"]),
            2 => change(&mut body["root"]),
            3 => change(&mut body["mono_us"]),
            4 => change(&mut body["heads"]["count"]),
            5 => change(&mut body["opening"]),
            6 => {
                body["ended"] = json!("recovered");
                "ended".to_owned()
            }
            7 => {
                body["chunks"].as_array_mut()?.remove(chunk);
                "a chunk left out".to_owned()
            }
            _ => {
                body["gaps"].as_array_mut()?.pop()?;
                "a gap left out".to_owned()
            }
        };
        let forged = self.random.below(2) == 0;
        let bytes = if forged { sign(body, &FORGER) } else { canonical(&statement) };
        self.files.insert("manifest.json".to_owned(), bytes.into_bytes());
        self.name("manifest.json");
        Some(format!("manifest edited: {what}{}", if forged { ", signed by another key" } else { "" }))
    }

    fn forge_head(&mut self) -> Option<String> {
        let mut lines = self.lines();
        let at = self.random.below(lines.len());
        let mut statement: Value = serde_json::from_slice(&lines[at]).ok()?;
        let body = &mut statement["body"];
        let what = match self.random.below(6) {
            0 => change(&mut body["mono_us"]),
            1 => change(&mut body["wall_ms"]),
            2 => change(&mut body["root"]),
            3 if !body["open"].is_null() => change(&mut body["open"]["hash"]),
            4 if !body["open"].is_null() => change(&mut body["open"]["length"]),
            // As it was, but by another device.
            _ => "nothing".to_owned(),
        };
        let onward = self.random.below(2) == 0;
        lines[at] = (sign(body, &FORGER) + "\n").into_bytes();
        if onward {
            // The chain is made good again, as far as somebody without the device's key can.
            for next in at + 1..lines.len() {
                let mut statement: Value = serde_json::from_slice(&lines[next]).ok()?;
                let previous = &lines[next - 1][..lines[next - 1].len() - 1];
                statement["body"]["previous"] = json!(blake3::hash(previous).to_hex().to_string());
                lines[next] = (sign(&statement["body"], &FORGER) + "\n").into_bytes();
            }
        }
        self.set_lines(&lines);
        Some(format!("forged head {}: {what}{}", at + 1, if onward { ", and all after it" } else { "" }))
    }

    fn version(&mut self) -> Option<String> {
        let version = if self.random.below(2) == 0 { 0 } else { 2 };
        let file = match self.random.below(5) {
            0 => "keys.json".to_owned(),
            _ => self.file(),
        };
        if file.starts_with("chunk-") {
            self.files.get_mut(&file)?[8] = version;
        } else if file == "heads.jsonl" {
            let mut lines = self.lines();
            let at = self.random.below(lines.len());
            let mut statement: Value = serde_json::from_slice(&lines[at]).ok()?;
            statement["body"]["version"] = json!(version);
            lines[at] = (sign(&statement["body"], &FORGER) + "\n").into_bytes();
            self.set_lines(&lines);
        } else {
            let mut document: Value = serde_json::from_slice(self.files.get(&file)?).ok()?;
            let text = if file == "keys.json" {
                document["version"] = json!(version);
                canonical(&document)
            } else {
                document["body"]["version"] = json!(version);
                sign(&document["body"], &FORGER)
            };
            self.files.insert(file.clone(), text.into_bytes());
        }
        self.name(&*file);
        Some(format!("version {version} in {file}"))
    }

    fn inside(&mut self) -> Option<String> {
        let file = self.chunk();
        let bytes = self.files.get_mut(&file)?;
        let at = self.random.below(bytes.len());
        let end = (at + 1 + self.random.below(40)).min(bytes.len());
        let what = match self.random.below(3) {
            0 => {
                bytes.drain(at..end);
                "removed"
            }
            1 => {
                bytes[at..end].fill(0);
                "made zero"
            }
            _ => {
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
                "repeated"
            }
        };
        if !self.finished && what == "repeated" && file == file_name(self.chunks as u32 - 1) {
            // What follows the last head's bytes is confirmed by nobody: only a change before them counts.
            return None;
        }
        self.name(&*file);
        Some(format!("inside {file}: bytes {at} to {end} {what}"))
    }

    /// Everything is made again by somebody with a key of his own. It is good in itself, so that only who knows the
    /// device's key sees it.
    fn forge_all(&mut self) -> Option<String> {
        if !self.finished {
            return None;
        }
        let device = hex::encode(public(&FORGER));
        let known = self.files["opening.json"].clone();
        let mut opening: Value = serde_json::from_slice(&known).ok()?;
        let honest = opening["body"]["device"].as_str()?.to_owned();
        opening["body"]["device"] = json!(device);
        opening["body"]["policy"] = json!("00".repeat(32));
        let opening = sign(&opening["body"], &FORGER);
        let mut previous = blake3::hash(opening.as_bytes()).to_hex().to_string();
        let opening_hash = previous.clone();
        let mut lines = self.lines();
        for line in &mut lines {
            let mut statement: Value = serde_json::from_slice(line).ok()?;
            statement["body"]["previous"] = json!(previous);
            let forged = sign(&statement["body"], &FORGER);
            previous = blake3::hash(forged.as_bytes()).to_hex().to_string();
            *line = (forged + "\n").into_bytes();
        }
        let mut manifest: Value = serde_json::from_slice(&self.files["manifest.json"]).ok()?;
        manifest["body"]["opening"] = json!(opening_hash);
        manifest["body"]["heads"]["last"] = json!(previous);
        self.files.insert("opening.json".to_owned(), opening.into_bytes());
        self.files.insert("manifest.json".to_owned(), sign(&manifest["body"], &FORGER).into_bytes());
        self.set_lines(&lines);
        self.named.clear();
        if self.random.below(2) == 0 {
            STATEMENTS.iter().for_each(|file| self.name(*file));
            self.device = Some(honest);
            Some("forged by another device, and the true one is known".to_owned())
        } else {
            self.verdict = "sound";
            Some("forged by another device, and the true one is not known".to_owned())
        }
    }

    fn keys(&mut self) -> Option<String> {
        let bytes = self.files.get_mut("keys.json")?;
        let at = self.random.below(bytes.len());
        bytes[at] ^= 1 << self.random.below(8);
        self.verdict = "any";
        self.name("keys.json");
        Some(format!("keys: byte {at} flipped"))
    }
}

/// The seed of a key that is not the device's.
const FORGER: [u8; 32] = [0xf0; 32];

fn public(seed: &[u8; 32]) -> Vec<u8> {
    use ring::signature::KeyPair;
    Ed25519KeyPair::from_seed_unchecked(seed).unwrap().public_key().as_ref().to_vec()
}

/// Canonical JSON of what has ASCII names and integers alone.
pub fn canonical(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let mut names: Vec<_> = members.keys().collect();
            names.sort();
            let members = names.iter().map(|name| format!("{}:{}", json!(name), canonical(&members[*name])));
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

fn sign(body: &Value, seed: &[u8; 32]) -> String {
    let text = canonical(body);
    let message = format!("lucid recording v1 {}\0{text}", body["kind"].as_str().unwrap());
    let signature = Ed25519KeyPair::from_seed_unchecked(seed).unwrap().sign(message.as_bytes());
    format!("{{\"body\":{text},\"signature\":\"{}\"}}", hex::encode(signature))
}

/// Another value of the same kind.
fn change(value: &mut Value) -> String {
    let before = value.to_string();
    *value = match &*value {
        Value::Number(number) => json!(number.as_u64().unwrap() + 1),
        Value::String(text) => {
            let first = if text.starts_with('0') { "1" } else { "0" };
            json!(format!("{first}{}", &text[1..]))
        }
        other => panic!("{other} is not changed"),
    };
    format!("{before} to {value}")
}
