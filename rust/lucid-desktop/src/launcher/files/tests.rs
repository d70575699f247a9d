//! The launcher's side over a real socket, with files of every kind, and what a hostile other side may ask.

use super::*;
use std::os::unix::fs::symlink;

struct Bench {
    home: PathBuf,
    files: Option<Files>,
    stream: UnixStream,
}

impl Bench {
    fn new(test: &str) -> Bench {
        let home = std::env::temp_dir().join(format!("lucid-files-{test}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&home);
        std::fs::create_dir_all(&home).unwrap();
        let files = Files::new(&home);
        let (stream, theirs) = UnixStream::pair().unwrap();
        files.serve(theirs);
        Bench { home, files: Some(files), stream }
    }

    fn call(&mut self, request: &Request, data: &[u8]) -> (Answer, Vec<u8>) {
        self.stream.write_all(&files::frame(request, data).unwrap()).unwrap();
        let mut first = [0; 8];
        self.stream.read_exact(&mut first).unwrap();
        let (header, data) = files::lengths(first).unwrap();
        let header = read_exactly(&mut self.stream, header).unwrap();
        let data = read_exactly(&mut self.stream, data).unwrap();
        (files::header(&header).unwrap(), data)
    }

    fn list(&mut self, paths: &[&Path]) -> Answer {
        let list: String = paths.iter().map(|path| uri(path) + "\r\n").collect();
        self.call(&Request::List, list.as_bytes()).0
    }

    fn read(&mut self, index: u32, offset: u64, length: u32) -> Result<Vec<u8>, String> {
        match self.call(&Request::Read { index, offset, length }, &[]) {
            (Answer::Data, data) => Ok(data),
            (Answer::Refused { why }, _) => Err(why),
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        drop(self.files.take());
        let _ = std::fs::remove_dir_all(&self.home);
    }
}

fn refused(answer: &Answer) -> bool {
    matches!(answer, Answer::Refused { .. })
}

fn file(path: &str, size: u64) -> Entry {
    Entry { path: path.into(), size, folder: false, modified: 1_600_000_000 }
}

#[test]
fn what_is_listed_can_be_read_in_pieces_and_nothing_else() {
    let mut bench = Bench::new("list");
    let folder = bench.home.join("Grüße 漢字 %41");
    std::fs::create_dir_all(folder.join("empty")).unwrap();
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| ((n * 7) >> 3) as u8).collect();
    std::fs::write(folder.join("👍.bin"), &content).unwrap();
    std::fs::write(bench.home.join("outside"), "secret").unwrap();
    symlink("../outside", folder.join("link")).unwrap();
    symlink(&bench.home, folder.join("up")).unwrap();
    let answer = bench.list(&[&folder]);
    let Answer::Listed { entries, left_out: 2 } = answer else { panic!("{answer:?}") };
    let listed: Vec<_> = entries.iter().map(|e| (e.path.as_str(), e.size, e.folder)).collect();
    let name = "Grüße 漢字 %41";
    let (empty, bin) = (format!("{name}/empty"), format!("{name}/👍.bin"));
    assert_eq!(listed, [(name, 0, true), (&*empty, 0, true), (&*bin, 3_000_000, false)]);
    let mut back = bench.read(2, 0, 1 << 20).unwrap();
    back.extend(bench.read(2, 1 << 20, u32::MAX).unwrap());
    back.extend(bench.read(2, 2 << 20, 1 << 20).unwrap());
    assert!(back == content);
    assert_eq!(bench.read(2, u64::MAX, 10).unwrap(), b"");
    assert!(bench.read(1, 0, 1).is_err() && bench.read(3, 0, 1).is_err());
    // What has been added is not part of it.
    std::fs::write(folder.join("👍.bin"), [content, vec![1; 10]].concat()).unwrap();
    assert_eq!(bench.read(2, 3_000_000, 10).unwrap(), b"");
}

#[test]
fn a_listed_file_that_becomes_a_link_or_another_file_is_not_read() {
    let mut bench = Bench::new("swap");
    let (outside, inside) = (bench.home.join("outside"), bench.home.join("in"));
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(&outside, "secret").unwrap();
    let paths = ["a", "b", "c", "d/e"].map(|name| inside.join(name));
    std::fs::create_dir(inside.join("d")).unwrap();
    paths.iter().for_each(|path| std::fs::write(path, "public").unwrap());
    assert!(matches!(bench.list(&[&inside]), Answer::Listed { left_out: 0, .. }));
    let [a, b, c, _] = &paths;
    std::fs::remove_file(a).unwrap();
    symlink(&outside, a).unwrap();
    std::fs::rename(&outside, b).unwrap();
    std::fs::remove_file(c).unwrap();
    rustix::fs::mkfifoat(CWD, c, Mode::RUSR | Mode::WUSR).unwrap();
    std::fs::rename(inside.join("d"), bench.home.join("elsewhere")).unwrap();
    symlink(bench.home.join("elsewhere"), inside.join("d")).unwrap();
    // The first is the folder, the fifth d.
    for index in [1, 2, 3, 5] {
        assert!(bench.read(index, 0, 6).is_err(), "{index}");
    }
}

#[test]
fn odd_lists_are_refused() {
    let mut bench = Bench::new("odd");
    let plain = bench.home.join("plain");
    std::fs::write(&plain, "x").unwrap();
    let twice = bench.home.join("sub/plain");
    std::fs::create_dir(bench.home.join("sub")).unwrap();
    std::fs::write(&twice, "x").unwrap();
    assert!(refused(&bench.list(&[&plain, &twice])));
    let colon = bench.home.join("a:b");
    std::fs::write(&colon, "x").unwrap();
    assert!(refused(&bench.list(&[&colon])));
    let bytes = bench.home.join(OsStr::from_bytes(b"\xff\xfe"));
    std::fs::write(&bytes, "x").unwrap();
    assert!(refused(&bench.list(&[&bytes])));
    assert!(refused(&bench.list(&[&bench.home.join("missing")])));
    assert!(refused(&bench.list(&[])));
    assert!(refused(&bench.list(&[Path::new("/")])));
    assert!(refused(&bench.list(&[Path::new("/dev/null")])));
    for list in [
        "http://x/y",
        "file://elsewhere/x",
        "file://",
        "file:///a%0",
        "file:///a%00b",
        "/etc/passwd",
        "\u{0}",
    ] {
        assert!(refused(&bench.call(&Request::List, list.as_bytes()).0), "{list:?}");
    }
    assert!(bench.read(0, 0, 1).is_err());
    // As GNOME's programs say it.
    let gnome = format!("copy\n{}", uri(&plain));
    assert!(matches!(bench.call(&Request::List, gnome.as_bytes()).0, Answer::Listed { .. }));
    assert_eq!(bench.read(0, 0, 5).unwrap(), b"x");
}

#[test]
fn folders_without_end_are_not_walked() {
    let mut bench = Bench::new("deep");
    let top = bench.home.join("deep");
    let mut path = top.clone();
    for _ in 0..40 {
        path.push("d");
    }
    std::fs::create_dir_all(&path).unwrap();
    assert!(refused(&bench.list(&[&top])));
    let many = bench.home.join("many");
    std::fs::create_dir(&many).unwrap();
    for at in 0..MAX_ENTRIES {
        std::fs::write(many.join(at.to_string()), "").unwrap();
    }
    assert!(refused(&bench.list(&[&many])));
}

#[test]
fn what_comes_is_written_whole_into_a_folder_of_its_own() {
    let mut bench = Bench::new("write");
    let folder = Entry { path: "leer".into(), size: 0, folder: true, modified: 0 };
    let entries = vec![file("Grüße/漢字 %.txt", 6), file("null", 0), folder, file("Grüße/b", 3)];
    assert_eq!(bench.call(&Request::Begin { entries }, &[]).0, Answer::Done);
    for (index, offset, data) in [(0, 0, "abc"), (0, 3, "def"), (3, 0, "ghi")] {
        assert_eq!(bench.call(&Request::Write { index, offset }, data.as_bytes()).0, Answer::Done);
    }
    let (Answer::Finished { uris }, _) = bench.call(&Request::Finish, &[]) else { panic!() };
    assert_eq!(uris.len(), 3);
    assert!(uris[0].ends_with("/Gr%C3%BC%C3%9Fe") && uris[0].starts_with("file:///"), "{uris:?}");
    let path = PathBuf::from(OsStr::from_bytes(&decode(&uris[0].as_bytes()[7..]).unwrap()));
    assert_eq!(std::fs::read(path.join("漢字 %.txt")).unwrap(), b"abcdef");
    assert_eq!(std::fs::read(path.join("b")).unwrap(), b"ghi");
    assert_eq!(std::fs::read(path.parent().unwrap().join("null")).unwrap(), b"");
    assert!(path.parent().unwrap().join("leer").is_dir());
    let time = std::fs::metadata(path.join("b")).unwrap().modified().unwrap();
    assert_eq!(time.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs(), 1_600_000_000);
    // What was listed is what was written.
    assert!(matches!(bench.list(&[&path]), Answer::Listed { .. }));
    // And it goes with the desktop.
    drop(bench.files.take());
    assert!(!path.exists());
}

#[test]
fn what_is_cut_off_or_does_not_fit_leaves_nothing() {
    let mut bench = Bench::new("cut");
    let base = lock(&bench.files.as_ref().unwrap().shelf).base.clone();
    let left = || std::fs::read_dir(&base).map(|entries| entries.count()).unwrap_or(0);
    let begin = |bench: &mut Bench, entries: &[Entry]| {
        bench.call(&Request::Begin { entries: entries.to_vec() }, &[]).0
    };
    let write = |bench: &mut Bench, index, offset, data: &str| {
        bench.call(&Request::Write { index, offset }, data.as_bytes()).0
    };
    for bad in ["../a", "/a", "a/../../b", "", "a\\b"] {
        assert!(refused(&begin(&mut bench, &[file("good", 1), file(bad, 1)])), "{bad:?}");
    }
    // A file in which there is another.
    assert!(!refused(&begin(&mut bench, &[file("a", 1), file("a/b", 1)])));
    assert!(refused(&write(&mut bench, 0, 0, "x")));
    for (index, offset, data) in [(0, 1, "x"), (0, 0, "xxxx"), (1, 0, "x"), (2, 0, "x"), (u32::MAX, 0, "x")] {
        assert_eq!(begin(&mut bench, &[file("a", 3), file("b", 3)]), Answer::Done);
        assert!(refused(&write(&mut bench, index, offset, data)), "{index} {offset}");
        assert!(refused(&bench.call(&Request::Finish, &[]).0));
    }
    assert_eq!(left(), 0);
    // Not complete.
    assert_eq!(begin(&mut bench, &[file("a", 3)]), Answer::Done);
    assert_eq!(write(&mut bench, 0, 0, "xx"), Answer::Done);
    assert!(refused(&bench.call(&Request::Finish, &[]).0));
    assert_eq!(left(), 0);
    // The connection ends in the middle.
    assert_eq!(begin(&mut bench, &[file("a", 3)]), Answer::Done);
    assert_eq!(left(), 1);
    bench.stream.shutdown(std::net::Shutdown::Both).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while left() > 0 {
        assert!(std::time::Instant::now() < deadline);
        std::thread::yield_now();
    }
}

#[test]
fn only_the_last_two_are_kept_and_connections_are_bounded() {
    let mut bench = Bench::new("kept");
    let base = lock(&bench.files.as_ref().unwrap().shelf).base.clone();
    for _ in 0..5 {
        assert_eq!(bench.call(&Request::Begin { entries: vec![file("a", 0)] }, &[]).0, Answer::Done);
        assert!(matches!(bench.call(&Request::Finish, &[]).0, Answer::Finished { .. }));
    }
    assert_eq!(std::fs::read_dir(&base).unwrap().count(), KEPT);
    let mut others = Vec::new();
    for _ in 0..MAX_CONNECTIONS + 3 {
        let (ours, theirs) = UnixStream::pair().unwrap();
        bench.files.as_ref().unwrap().serve(theirs);
        others.push(ours);
    }
    assert_eq!(others.last_mut().unwrap().read(&mut [0]).unwrap(), 0);
}

#[test]
fn damaged_frames_end_the_connection_and_nothing_else() {
    let bench = Bench::new("damage");
    let good = files::frame(&Request::Begin { entries: vec![file("a", 3)] }, b"data").unwrap();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as usize
    };
    for _ in 0..300 {
        let mut damaged = good.clone();
        for _ in 0..1 + random() % 3 {
            let at = random() % damaged.len();
            damaged[at] = random() as u8;
        }
        damaged.truncate(1 + random() % damaged.len());
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let shelf = Arc::clone(&bench.files.as_ref().unwrap().shelf);
        ours.write_all(&damaged).unwrap();
        ours.shutdown(std::net::Shutdown::Write).unwrap();
        // Comes back, with an error or without.
        let _ = (Connection { stream: theirs, shelf, listing: None, incoming: None }).serve();
    }
    let base = lock(&bench.files.as_ref().unwrap().shelf).base.clone();
    assert_eq!(std::fs::read_dir(&base).map(|entries| entries.count()).unwrap_or(0), 0);
}
