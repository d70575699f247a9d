//! The doors through which bytes of others come in, for the fuzz targets in `../fuzz` and for the tests that replay their
//! corpus. Built with the feature `fuzzing` and for tests alone.
//!
//! A door is a function that takes any bytes. It panics when something does not hold that has to.

#![allow(clippy::expect_used, reason = "what cannot be set up or does not hold has to end the run")]

use std::{fs, path::PathBuf, sync::OnceLock};

use zeroize::Zeroizing;

use lucid_statement::{
    Hex, SessionId, SigningKey,
    json::{self, Document},
};

use crate::{
    OwnerSecret, Proof, Reader, Recovery, Time, Verdict,
    chain::{Chain, check_opening},
    chunk::{Frames, HEADER, Header, MAX_PAYLOAD, Sealing, file_name},
    files,
    keys::Keys,
    prove,
    reader::{Opener, check_manifest},
    secret::SessionKey,
    statement::{Chunk, Head, Manifest, Opening},
    verify,
    verify::Options,
};

/// The session key of the chunks here.
const KEY: [u8; 32] = [7; 32];

/// A chunk that its owner reads. The first byte says how: 0, the bytes are the file's; else they are what a device with
/// the right key has sealed, one record after the other: stream, flags, length (u16, little-endian), time and payload.
pub fn chunk(bytes: &[u8]) {
    let Some((how, bytes)) = bytes.split_first() else { return };
    let key = SessionKey::open(Zeroizing::new(KEY), &commitment()).expect("its commitment");
    let file = if *how == 0 { bytes.to_vec() } else { sealed(&key, bytes) };
    let Ok(header) = Header::read("chunk", &file) else { return };
    assert_eq!(header.to_bytes()[..], file[..HEADER], "a header has two spellings");
    let entry = Chunk {
        acknowledged: u64::from(*how) << 4,
        first_us: 0,
        hash: Hex([0; 32]),
        index: header.index,
        key: false,
        last_us: 0,
        part: header.part,
        size: file.len() as u64,
    };
    let sealing = Sealing::new(&key, &header).expect("a key");
    let mut opener = Opener::new(sealing, &entry).expect("a decompressor");
    let (mut frames, mut file, mut last_us) = (Frames::new(), file, 0);
    while let Ok(Some(frame)) = frames.next(&file) {
        let Ok(Ok(record)) = opener.open("chunk", &frame, &mut file) else { return };
        assert!(record.payload.len() <= MAX_PAYLOAD && record.mono_us >= last_us);
        last_us = record.mono_us;
    }
}

fn commitment() -> crate::Hash {
    Hex(blake3::derive_key("lucid recording v1 key commitment", &KEY))
}

fn session() -> SessionId {
    let mut bytes = [0; 16];
    (bytes[6], bytes[8]) = (0x40, 0x80);
    SessionId::new(bytes).expect("version 4")
}

fn sealed(key: &SessionKey, mut bytes: &[u8]) -> Vec<u8> {
    let header =
        Header { session: session(), part: 0, index: 0, salt: [9; 16], key_commitment: key.commitment() };
    let sealing = Sealing::new(key, &header).expect("a key");
    let mut file = header.to_bytes().to_vec();
    for number in 0.. {
        let Some((&[stream, flags, low, high], rest)) = bytes.split_first_chunk() else { break };
        let (plain, rest) = rest.split_at(rest.len().min(u16::from_le_bytes([low, high]).into()));
        let Some((time, payload)) = plain.split_first_chunk() else { break };
        let time = u64::from_le_bytes(*time);
        sealing.seal(number, stream, flags, time, payload, &mut file).expect("a record");
        bytes = rest;
    }
    file
}

/// The statements, whoever signed them. The first byte says which.
pub fn statements(bytes: &[u8]) {
    let Some((which, bytes)) = bytes.split_first() else { return };
    match which % 5 {
        0 => {
            if let Some(opening) = statement::<Opening>(bytes) {
                let _ = check_opening(&opening);
            }
        }
        1 => {
            if let Some(manifest) = statement::<Manifest>(bytes) {
                let _ = check_manifest(&manifest);
            }
        }
        2 => {
            if let Ok(keys) = json::read::<Keys>("keys", bytes) {
                assert_eq!(json::to_bytes("keys", &keys).expect("it was read"), bytes);
            }
        }
        3 => {
            if let Ok(proof) = Proof::from_bytes(bytes) {
                assert_eq!(proof.to_bytes().expect("it was read"), bytes);
            }
        }
        _ => {
            let mut chain: Option<Chain> = None;
            for line in bytes.split(|byte| *byte == b'\n') {
                let Some(head) = statement::<Head>(line) else { return };
                let chain = chain.get_or_insert_with(|| Chain::new(head.session, head.previous));
                if chain.accept(line, None).is_err() {
                    return;
                }
                assert_eq!(chain.tree.root(), head.root);
                assert_eq!(chain.chunks.len(), head.closed as usize);
            }
        }
    }
}

fn statement<D: Document>(bytes: &[u8]) -> Option<D> {
    let statement = json::read_signed::<D>("statement", bytes, None).ok()?;
    assert_eq!(json::to_bytes("statement", &statement).expect("it was read"), bytes);
    Some(statement.body)
}

/// The device that signs what the fuzzer makes up.
fn device() -> SigningKey {
    SigningKey::from_seed(&[0xd1; 32]).expect("a seed")
}

fn owner() -> OwnerSecret {
    OwnerSecret::from_bytes([0x0a; 32])
}

/// A whole directory: files one after the other, as number, length (u24, little-endian) and bytes. The numbers 0 to 3
/// are the opening, the heads, the keys and the manifest, and those from 4 on the chunks. When the first byte is not 0,
/// every statement is signed anew by the device, and the heads are chained, so that what is within counts.
pub fn directory(bytes: &[u8]) {
    let Some((anew, mut bytes)) = bytes.split_first() else { return };
    let dir = folder();
    if dir.exists() {
        fs::remove_dir_all(dir).expect("the folder can be emptied");
    }
    fs::create_dir(dir).expect("the folder can be made");
    while let Some((&[number, a, b, c], rest)) = bytes.split_first_chunk() {
        let (content, rest) = rest.split_at(rest.len().min(u32::from_le_bytes([a, b, c, 0]) as usize));
        let name = match number {
            0 => files::OPENING.to_owned(),
            1 => files::HEADS.to_owned(),
            2 => files::KEYS.to_owned(),
            3 => files::MANIFEST.to_owned(),
            chunk => file_name(u32::from(chunk) - 4),
        };
        let content = if *anew == 0 { content.to_vec() } else { signed(number, content, dir) };
        fs::write(dir.join(name), content).expect("the file can be written");
        bytes = rest;
    }
    let (secret, device) = (owner(), device());
    let public = Some(device.public());
    let mut verdicts = [None, Some(&secret)].map(|owner| {
        let report = verify(dir, Options { owner, device: public }, &mut |_| {}).expect("it is a directory");
        assert_eq!(report.findings.is_empty(), report.verdict != Verdict::Damaged);
        report.verdict
    });
    if let Ok(reader) = Reader::open(dir, &secret, public.as_ref()) {
        for entry in reader.chunks() {
            let Ok(mut records) = reader.chunk(entry.index) else { continue };
            while let Ok(Some(_)) = records.next() {}
            let _ = reader.seek(entry.first_us);
        }
        for entry in reader.chunks().iter().take(2) {
            if let Ok(proof) = prove(dir, entry.index) {
                proof
                    .check(&dir.join(file_name(entry.index)), &device.public())
                    .expect("its own proof holds");
            }
        }
    }
    // What recovery ends is as sound as what was there.
    if let Ok(recovery) = Recovery::open(dir, device, "fuzzing") {
        let mended = recovery.found();
        let now = Time { wall_ms: 0, mono_us: recovery.mono_us() };
        let Ok(_) = recovery.finish(now, "fuzzing") else { return };
        if verdicts[0] == Verdict::Unfinished && mended.lost == 0 && !mended.changed {
            let report =
                verify(dir, Options { owner: None, device: public }, &mut |_| {}).expect("a directory");
            verdicts[0] = report.verdict;
            assert_eq!(verdicts[0], Verdict::Sound, "{:?}", report.findings);
        }
    }
}

/// A folder of this process's own, in memory where there is such a place.
fn folder() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let memory = PathBuf::from("/dev/shm");
        let parent = if memory.is_dir() { memory } else { std::env::temp_dir() };
        parent.join(format!("lucid-recording-fuzzing-{}", std::process::id()))
    })
}

/// The statements of a file with the device's signature.
fn signed(number: u8, content: &[u8], dir: &std::path::Path) -> Vec<u8> {
    match number {
        0 => resign("lucid-recording-opening", content),
        1 => {
            let opening = fs::read(dir.join(files::OPENING)).unwrap_or_default();
            let mut previous = blake3::hash(&opening);
            let mut all = Vec::new();
            for line in content.split_inclusive(|byte| *byte == b'\n') {
                let (line, end) = match line {
                    [line @ .., b'\n'] => (line, &b"\n"[..]),
                    line => (line, &b""[..]),
                };
                let line = resign("lucid-recording-head", &replaced(line, "previous", &previous));
                previous = blake3::hash(&line);
                all.extend_from_slice(&line);
                all.extend_from_slice(end);
            }
            all
        }
        3 => {
            let opening = blake3::hash(&fs::read(dir.join(files::OPENING)).unwrap_or_default());
            let heads = fs::read(dir.join(files::HEADS)).unwrap_or_default();
            let lines = heads.strip_suffix(b"\n").unwrap_or(&heads);
            let last = blake3::hash(lines.rsplit(|byte| *byte == b'\n').next().unwrap_or_default());
            let content = replaced(&replaced(content, "opening", &opening), "last", &last);
            resign("lucid-recording-manifest", &content)
        }
        _ => content.to_vec(),
    }
}

/// With another hash in the member of that name.
fn replaced(text: &[u8], name: &str, hash: &blake3::Hash) -> Vec<u8> {
    let mut text = text.to_vec();
    let name = format!("\"{name}\":\"");
    if let Some(at) = text.windows(name.len()).position(|window| window == name.as_bytes())
        && let Some(old) = text.get_mut(at + name.len()..at + name.len() + 64)
    {
        old.copy_from_slice(hash.to_hex().as_bytes());
    }
    text
}

fn resign(kind: &str, text: &[u8]) -> Vec<u8> {
    let body = text.strip_prefix(b"{\"body\":").unwrap_or(text);
    // The signature and what is around it.
    let Some(body) = body.len().checked_sub(128 + 17).map(|end| &body[..end]) else { return text.to_vec() };
    let message = [b"lucid recording v1 ", kind.as_bytes(), &[0], body].concat();
    let signature = device().sign(&message).to_string();
    [b"{\"body\":", body, b",\"signature\":\"", signature.as_bytes(), b"\"}"].concat()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::chunk::flag;

    use super::*;

    type Door = (&'static str, fn(&[u8]));
    const DOORS: [Door; 3] = [("chunk", chunk), ("directory", directory), ("statements", statements)];

    fn corpus() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus")
    }

    /// One test, because the doors share a folder.
    #[test]
    fn every_input_of_the_corpus_is_borne_and_damaged_ones_as_well() {
        for (name, door) in DOORS {
            let mut count = 0;
            for file in fs::read_dir(corpus().join(name)).unwrap() {
                let bytes = fs::read(file.unwrap().path()).unwrap();
                door(&bytes);
                for at in (0..bytes.len()).step_by(1 + bytes.len() / 20) {
                    let mut damaged = bytes.clone();
                    damaged[at] ^= 1 << (at % 8);
                    door(&damaged);
                    door(&bytes[..at]);
                }
                count += 1;
            }
            assert!(count > 0, "{name}");
        }
        let _ = fs::remove_dir_all(folder());
    }

    /// The seeds are good: what the fuzzer begins with goes all the way.
    #[test]
    #[ignore = "writes the seeds of the corpus from the golden recording"]
    fn write_the_seeds() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/v1/recording");
        let read = |name: &str| fs::read(golden.join(name)).unwrap();
        let write = |door: &str, name: &str, bytes: &[u8]| {
            fs::create_dir_all(corpus().join(door)).unwrap();
            fs::write(corpus().join(door).join(name), bytes).unwrap();
        };
        let after = |first: u8, bytes: &[u8]| [&[first], bytes].concat();
        write("statements", "good-opening", &after(0, &read("opening.json")));
        write("statements", "good-manifest", &after(1, &read("manifest.json")));
        write("statements", "good-keys", &after(2, &read("keys.json")));
        write("statements", "good-proof", &after(3, &prove(&golden, 2).unwrap().to_bytes().unwrap()));
        let heads = read("heads.jsonl");
        write("statements", "good-heads", &after(4, heads.strip_suffix(b"\n").unwrap()));
        write("chunk", "good-file", &after(0, &read("chunk-000003")));
        let record = |stream: u8, flags: u8, time: u64, payload: &[u8]| {
            let length = (8 + payload.len() as u16).to_le_bytes();
            [&[stream, flags], &length[..], &time.to_le_bytes(), payload].concat()
        };
        let packed = zstd::bulk::compress(&[7; 3000], 3).unwrap();
        let records = [
            record(1, flag::KEY, 5, b"picture"),
            record(2, flag::ZSTD, 5, &packed),
            record(4, 0, 9, b""),
            record(0, flag::LAST | flag::END, 10, b""),
        ];
        write("chunk", "good-records", &after(1, &records.concat()));
        let (mut whole, mut unfinished) = (Vec::new(), Vec::new());
        let names = [(0, "opening.json"), (1, "heads.jsonl"), (2, "keys.json"), (3, "manifest.json")]
            .map(|(number, name)| (number, name.to_owned()));
        let chunks = (0..8).map(|index| (4 + index as u8, file_name(index)));
        for (number, name) in names.into_iter().chain(chunks) {
            let bytes = read(&name);
            let length = &(bytes.len() as u32).to_le_bytes()[..3];
            let file = [&[number], length, &bytes].concat();
            whole.extend_from_slice(&file);
            if number != 3 && number < 9 {
                unfinished.extend_from_slice(&file);
            }
        }
        write("directory", "good-as-it-is", &after(0, &whole));
        write("directory", "unfinished", &after(1, &unfinished));
        write("directory", "good-signed-anew", &after(1, &whole));
    }
}
