//! The folder before a client that is played here.

use super::*;
use crate::drives::damage::Random;

const OWNER: Owner = Owner { user: 1000, group: 1000 };

fn folder(writable: bool) -> Folder {
    let link = Rc::new(Link::default());
    link.attach();
    link.add(1, "home");
    let crossing = Rc::new(Files::new(crate::audit::Log::default()));
    let every = vec!["*".to_owned()];
    let file = lucid_policy::File {
        allowed_dirs: every.clone(),
        allowed_extensions: every,
        upload_enabled: true,
        download_enabled: writable,
        ..lucid_policy::File::default()
    };
    of(Policy { file, ..Policy::strict() }, link, crossing)
}

fn of(policy: Policy, link: Rc<Link>, crossing: Rc<Files>) -> Folder {
    let (_told, holding) = crate::gates::holding(Some(Arc::new(policy)));
    let (nodes, table) = (RefCell::new(Nodes::new()), RefCell::default());
    Folder { link, holding, nodes, table, open: RefCell::default(), made: RefCell::default(), crossing }
}

fn with_length(buffer: &[u8]) -> Vec<u8> {
    [&(buffer.len() as u32).to_le_bytes(), buffer].concat()
}

/// Answers for ever, by major function and the question's body.
async fn play(link: &Link, mut answer: impl FnMut(u32, &[u8]) -> (u32, Vec<u8>)) {
    loop {
        link.wanted().await;
        let bytes = link.output().unwrap();
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let (status, body) = answer(number(16), &bytes[24..]);
        link.complete(1, number(12), status, body);
        tokio::task::yield_now().await;
    }
}

/// What a client with one file of this content at every path says, in pieces of at most so many bytes.
fn one_file(content: &[u8], piece: usize) -> impl FnMut(u32, &[u8]) -> (u32, Vec<u8>) {
    move |major, body| {
        let number = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().unwrap()) as usize;
        let body = match major {
            0 => vec![9, 0, 0, 0, 1],
            3 => {
                let (length, offset) = (number(0), number(4));
                let rest = content.get(offset..).unwrap_or_default();
                with_length(&rest[..rest.len().min(length).min(piece)])
            }
            4 => (number(0).min(piece) as u32).to_le_bytes().to_vec(),
            5 if number(0) == 4 => with_length(&[0; 36]),
            5 => with_length(&[[0; 8].as_slice(), &(content.len() as u64).to_le_bytes(), &[0; 6]].concat()),
            _ => Vec::new(),
        };
        (0, body)
    }
}

async fn ask(folder: &Folder, node: u64, operation: Operation<'_>) -> Result<Answer, Errno> {
    folder.serve(&Request { unique: 1, node, owner: OWNER, operation }).await
}

/// A new file's node and handle (fuse_create_out: an entry of 128 bytes, then fuse_open_out).
fn created_as(answer: Result<Answer, Errno>) -> (u64, u64) {
    let bytes = fuse::answer(1, answer);
    assert_eq!(bytes[4..8], [0; 4], "{bytes:?}");
    let number = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
    (number(16), number(16 + 128))
}

/// The number that an answer begins with.
fn number(answer: Result<Answer, Errno>) -> u64 {
    let bytes = fuse::answer(1, answer);
    assert_eq!(bytes[4..8], [0; 4], "{bytes:?}");
    u64::from_ne_bytes(bytes[16..24].try_into().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_file_is_whole_though_its_client_gives_it_in_small_pieces() {
    let content: Vec<u8> = (0..10_000).map(|at| at as u8).collect();
    let folder = folder(true);
    let read = async {
        let drive = number(ask(&folder, ROOT, Operation::Lookup { name: b"home" }).await);
        let create = Operation::Create { name: "漢.txt".as_bytes(), flags: 2 };
        let (node, handle) = created_as(ask(&folder, drive, create).await);
        let read = ask(&folder, node, Operation::Read { handle, offset: 100, length: 65_536 }).await;
        let bytes = fuse::answer(1, read);
        let written = ask(&folder, node, Operation::Write { handle, offset: 0, data: &[1; 5000] }).await;
        assert_eq!(number(written), 5000);
        bytes
    };
    tokio::select! {
        bytes = read => assert_eq!(bytes[16..], content[100..]),
        () = play(&folder.link, one_file(&content, 999)) => {}
    }
}

#[tokio::test(start_paused = true)]
async fn the_recording_is_told_of_a_file_when_it_is_closed_whether_its_end_was_seen_or_not() {
    use lucid_ipc::session::to_recorder::Item;
    use lucid_ipc::session::{Direction, Event, event::Data};
    let content: Vec<u8> = (0..8192).map(|at| (at * 7) as u8).collect();
    let folder = folder(true);
    let (items, mut told) = tokio::sync::mpsc::channel(8);
    let (_told, state) = tokio::sync::watch::channel(crate::recording::State::On(0));
    folder.crossing.log().set(Some(crate::audit::To { items, state }));
    let used = async {
        let drive = number(ask(&folder, ROOT, Operation::Lookup { name: b"home" }).await);
        for (name, length) in [(&b"pages"[..], 4096), (b"more", 5000), (b"half", 4096)] {
            let node = number(ask(&folder, drive, Operation::Lookup { name }).await);
            let handle = number(ask(&folder, node, Operation::Open { flags: 0 }).await);
            let pieces = if name == b"half" { 1 } else { 2 };
            for offset in (0..pieces).map(|at| at * u64::from(length)) {
                ask(&folder, node, Operation::Read { handle, offset, length }).await.unwrap();
            }
            ask(&folder, node, Operation::Release { handle }).await.unwrap();
        }
        let created = ask(&folder, drive, Operation::Create { name: b"new", flags: 1 }).await;
        let (node, handle) = created_as(created);
        let emptied = Changes { size: Some(0), ..Changes::default() };
        ask(&folder, node, Operation::SetAttributes(emptied)).await.unwrap();
        ask(&folder, node, Operation::Write { handle, offset: 0, data: &content }).await.unwrap();
        ask(&folder, node, Operation::Release { handle }).await.unwrap();
    };
    tokio::select! {
        () = used => {}
        () = play(&folder.link, one_file(&content, 3000)) => {}
    }
    let hash = blake3::hash(&content).as_bytes().to_vec();
    let expected = [
        ("home/pages", 8192, hash.clone(), Direction::ToDesktop),
        ("home/more", 8192, hash.clone(), Direction::ToDesktop),
        ("home/half", 4096, Vec::new(), Direction::ToDesktop),
        ("home/new", 8192, hash, Direction::ToClient),
    ];
    for (name, bytes, hash, way) in expected {
        let Ok(Item::Event(Event { data: Some(Data::File(file)), .. })) = told.try_recv() else {
            panic!("{name} was not told")
        };
        assert_eq!((&*file.name, file.bytes, file.hash.to_vec(), file.direction()), (name, bytes, hash, way));
    }
    assert!(told.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn without_its_gate_nothing_is_changed_and_the_client_not_even_asked() {
    let folder = folder(false);
    let (drive, node, handle) = tokio::select! {
        found = async {
            let drive = number(ask(&folder, ROOT, Operation::Lookup { name: b"home" }).await);
            let node = number(ask(&folder, drive, Operation::Lookup { name: b"a" }).await);
            (drive, node, number(ask(&folder, node, Operation::Open { flags: 0 }).await))
        } => found,
        () = play(&folder.link, one_file(b"content", 100)) => unreachable!(),
    };
    while folder.link.output().is_some() {}
    for (node, operation) in [
        (node, Operation::Open { flags: 1 }),
        (node, Operation::Open { flags: 2 }),
        (node, Operation::Write { handle, offset: 0, data: b"x" }),
        (node, Operation::SetAttributes(Changes { size: Some(0), ..Changes::default() })),
        (drive, Operation::Create { name: b"b", flags: 0 }),
        (drive, Operation::MakeFolder { name: b"b" }),
        (drive, Operation::Unlink { name: b"a" }),
        (drive, Operation::RemoveFolder { name: b"a" }),
        (drive, Operation::Rename { name: b"a", folder: drive, to: b"b", flags: 0 }),
    ] {
        let text = format!("{operation:?}");
        assert_eq!(ask(&folder, node, operation).await.err(), Some(Errno::ROFS), "{text}");
        assert!(folder.link.output().is_none(), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_what_the_policy_names_is_seen_and_read_and_nothing_that_was_there_is_changed() {
    let link = Rc::new(Link::default());
    link.attach();
    link.add(1, "home");
    link.add(2, "other");
    let file = lucid_policy::File {
        allowed_dirs: vec!["home/work".to_owned()],
        allowed_extensions: vec!["txt".to_owned()],
        upload_enabled: true,
        download_enabled: true,
        max_size_mb: 1,
    };
    let crossing = Rc::new(Files::new(crate::audit::Log::default()));
    let folder = of(Policy { file, ..Policy::strict() }, link, crossing);
    let large = vec![0; (1 << 20) + 1];
    let used = async {
        let lookup = async |node, name: &[u8]| ask(&folder, node, Operation::Lookup { name }).await;
        assert_eq!(lookup(ROOT, b"other").await.err(), Some(Errno::NOENT));
        let home = number(lookup(ROOT, b"home").await);
        assert_eq!(lookup(home, b"secret").await.err(), Some(Errno::NOENT));
        assert_eq!(lookup(home, b"workshop").await.err(), Some(Errno::NOENT));
        let work = number(lookup(home, b"work").await);
        let open = async |node, flags| ask(&folder, node, Operation::Open { flags }).await;
        let (text, program) = (number(lookup(work, b"a.txt").await), number(lookup(work, b"a.exe").await));
        number(open(text, 0).await);
        assert_eq!(open(program, 0).await.err(), Some(Errno::ACCESS), "its ending");
        for flags in [1, 2] {
            assert_eq!(open(text, flags).await.err(), Some(Errno::PERM), "it was there before");
        }
        let unlink = ask(&folder, work, Operation::Unlink { name: b"a.txt" }).await;
        assert_eq!(unlink.err(), Some(Errno::PERM));
        let rename = Operation::Rename { name: b"a.txt", folder: work, to: b"b.txt", flags: 0 };
        assert_eq!(ask(&folder, work, rename).await.err(), Some(Errno::PERM));
        let create = async |node, name: &[u8]| ask(&folder, node, Operation::Create { name, flags: 1 }).await;
        assert_eq!(create(home, b"new.txt").await.err(), Some(Errno::ACCESS), "its folder");
        assert_eq!(create(work, b"new.exe").await.err(), Some(Errno::ACCESS), "its ending");
        let (node, handle) = created_as(create(work, b"new.txt").await);
        let write = async |offset| ask(&folder, node, Operation::Write { handle, offset, data: b"x" }).await;
        write((1 << 20) - 1).await.unwrap();
        assert_eq!(write(1 << 20).await.err(), Some(Errno::ACCESS), "its size");
        let unlink = ask(&folder, work, Operation::Unlink { name: b"new.txt" }).await;
        // The client that is played here has a file at every path.
        assert_ne!(unlink.err(), Some(Errno::PERM), "it was made here");
    };
    tokio::select! { () = used => {}, () = play(&folder.link, one_file(b"content", 100)) => {} }
    let used = async {
        let home = number(ask(&folder, ROOT, Operation::Lookup { name: b"home" }).await);
        let work = number(ask(&folder, home, Operation::Lookup { name: b"work" }).await);
        let text = number(ask(&folder, work, Operation::Lookup { name: b"b.txt" }).await);
        let open = ask(&folder, text, Operation::Open { flags: 0 }).await;
        assert_eq!(open.err(), Some(Errno::ACCESS), "its size");
    };
    tokio::select! { () = used => {}, () = play(&folder.link, one_file(&large, 100)) => {} }
}

#[tokio::test(start_paused = true)]
async fn names_that_lead_elsewhere_never_reach_the_client() {
    let folder = folder(true);
    let drive = tokio::select! {
        drive = async { number(ask(&folder, ROOT, Operation::Lookup { name: b"home" }).await) } => drive,
        () = play(&folder.link, one_file(b"content", 100)) => unreachable!(),
    };
    while folder.link.output().is_some() {}
    for name in [&b".."[..], b".. ", b"a\\..\\..\\b", b"a:b", b"nul", b"\xff\xfe", b"a/b"] {
        assert_eq!(ask(&folder, drive, Operation::Lookup { name }).await.err(), Some(Errno::NOENT));
        for operation in [
            Operation::MakeFolder { name },
            Operation::Create { name, flags: 1 },
            Operation::Unlink { name },
            Operation::Rename { name: b"a", folder: drive, to: name, flags: 0 },
        ] {
            let text = format!("{operation:?}");
            assert_eq!(ask(&folder, drive, operation).await.err(), Some(Errno::INVAL), "{text}");
        }
        assert!(folder.link.output().is_none());
    }
    // And nothing is made among the drives.
    assert_eq!(ask(&folder, ROOT, Operation::MakeFolder { name: b"x" }).await.err(), Some(Errno::PERM));
}

#[tokio::test(start_paused = true)]
async fn damaged_answers_end_every_request_in_an_answer() {
    let mut random = Random::new();
    let listing = with_length(&[0; 70]);
    for _ in 0..300 {
        let folder = folder(true);
        let mut count = 0;
        let mut good = one_file(b"content", 100);
        let damaged = |major: u32, body: &[u8]| {
            count += 1;
            let (_, answer) = if major == 12 { (0, listing.clone()) } else { good(major, body) };
            // A listing without end has to be given up as well.
            let status = if random.next().is_multiple_of(9) || count > 3000 { 0xc000_0001 } else { 0 };
            (status, random.damage(&answer))
        };
        let all = async {
            let Ok(drive) = ask(&folder, ROOT, Operation::Lookup { name: b"home" }).await else { return };
            let drive = number(Ok(drive));
            for operation in [
                Operation::Lookup { name: b"a" },
                Operation::GetAttributes { handle: None },
                Operation::Create { name: b"b", flags: 2 },
                Operation::OpenFolder,
                Operation::List { handle: 1, offset: 0, length: 4096 },
                Operation::List { handle: 2, offset: 0, length: 4096 },
                Operation::Read { handle: 1, offset: 0, length: 4096 },
                Operation::Write { handle: 1, offset: 0, data: b"abc" },
                Operation::Rename { name: b"a", folder: drive, to: b"b", flags: 0 },
                Operation::RemoveFolder { name: b"b" },
                Operation::SetAttributes(Changes { size: Some(3), mode: Some(0), ..Changes::default() }),
                Operation::Statistics,
                Operation::Release { handle: 1 },
            ] {
                // Done or not: it ends.
                let _ = ask(&folder, drive, operation).await;
            }
        };
        tokio::select! { () = all => {}, () = play(&folder.link, damaged) => {} }
    }
}
