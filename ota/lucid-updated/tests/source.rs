//! Servers that do not do what they should, and folders that hold what they should not.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod support;

use std::{fs, sync::Arc, time::Duration};

use bytes::Bytes;
use lucid_updated::source::{Dir, Failed, Folder, Limits, Source, Web};
use support::repository::Site;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::sleep,
};

const QUICK: Limits = Limits {
    connect: Duration::from_secs(5),
    first: Duration::from_millis(500),
    stall: Duration::from_millis(500),
    whole: Duration::from_secs(2),
    window: Duration::from_millis(600),
    least: 4096,
};

/// Reads the head of a request; none when the client has gone.
async fn request(socket: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

/// A server that answers each connection's requests by a function, and says what it was asked.
async fn server<F, A>(answer: F) -> (Web, mpsc::UnboundedReceiver<String>)
where
    F: Fn(TcpStream, String) -> A + Send + Sync + 'static,
    A: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            if let Some(head) = request(&mut socket).await {
                // Not every test listens.
                let _ = tell.send(head.clone());
                tokio::spawn(answer(socket, head));
            }
        }
    });
    (Web::new(&format!("http://127.0.0.1:{port}/lucid"), None, QUICK).unwrap(), told)
}

/// A server that says this and closes.
async fn saying(bytes: impl Into<Bytes>) -> Web {
    let bytes = bytes.into();
    let (web, _) = server(move |mut socket, _| {
        let bytes = bytes.clone();
        async move {
            // A client that has heard enough closes first.
            let _ = socket.write_all(&bytes).await;
            let _ = socket.shutdown().await;
        }
    })
    .await;
    web
}

async fn whole(web: &Web) -> Result<Bytes, Failed> {
    web.whole(Folder::Metadata, "timestamp.json", 1000).await
}

/// All of a stretch.
async fn stretch(source: &dyn Source, from: u64, to: u64) -> Result<Bytes, Failed> {
    let mut stretch = source.range("a.chunks", from, to).await?;
    let bytes = stretch.take((to - from) as usize).await?;
    stretch.end().await?;
    Ok(bytes)
}

#[tokio::test]
async fn a_file_is_asked_for_once_and_plainly() {
    let web = server(|mut socket, _| async move {
        socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await.unwrap();
    });
    let (web, mut told) = web.await;
    assert_eq!(whole(&web).await.unwrap(), "{}");
    let head = told.recv().await.unwrap().to_lowercase();
    assert!(head.starts_with("get /lucid/metadata/timestamp.json http/1.1\r\n"), "{head}");
    for line in ["\r\naccept-encoding: identity\r\n", "\r\nhost: 127.0.0.1:"] {
        assert!(head.contains(line), "{head}");
    }
    assert!(!head.contains("\r\nrange:") && !head.contains("\r\nreferer:"), "{head}");
}

#[tokio::test]
async fn a_range_is_exactly_what_was_asked_for() {
    let (web, mut told) = server(|mut socket, _| async move {
        let head = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 10-14/100\r\nContent-Length: 5\r\n\r\nabcde";
        socket.write_all(head.as_bytes()).await.unwrap();
    })
    .await;
    assert_eq!(stretch(&web, 10, 15).await.unwrap(), "abcde");
    let head = told.recv().await.unwrap().to_lowercase();
    assert!(
        head.starts_with("get /lucid/targets/a.chunks ") && head.contains("\r\nrange: bytes=10-14\r\n"),
        "{head}"
    );
}

#[tokio::test]
async fn only_a_clear_no_says_that_a_file_is_not_there() {
    let name = || "timestamp.json".to_owned();
    for status in ["404 Not Found", "410 Gone"] {
        let web = saying(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")).await;
        assert_eq!(whole(&web).await.unwrap_err(), Failed::Missing { name: name() });
    }
    for status in [401, 403, 500, 503, 204] {
        let web = saying(format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n")).await;
        assert_eq!(whole(&web).await.unwrap_err(), Failed::Status { name: name(), status });
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    for status in [301, 302, 303, 307, 308] {
        let text =
            format!("HTTP/1.1 {status} Found\r\nLocation: http://evil.example/\r\nContent-Length: 0\r\n\r\n");
        let failed = whole(&saying(text).await).await.unwrap_err();
        assert!(matches!(&failed, Failed::Redirect { to, .. } if to == "http://evil.example/"), "{failed}");
    }
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    // One that says so, one that does not, and one that sends pieces.
    let web = saying("HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n").await;
    assert!(matches!(whole(&web).await, Err(Failed::Endless { cap: 1000, .. })));
    for head in [
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        let (web, _told) = server(move |mut socket, _| async move {
            socket.write_all(head.as_bytes()).await.unwrap();
            // A chunk of 16 bytes in chunked coding; for the other just bytes.
            while socket.write_all(b"10\r\n0123456789abcdef\r\n").await.is_ok() {}
        })
        .await;
        assert!(matches!(whole(&web).await, Err(Failed::Endless { cap: 1000, .. })));
    }
    let head =
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-3/9\r\nTransfer-Encoding: chunked\r\n\r\n";
    let web = saying(format!("{head}5\r\nabcde\r\n0\r\n\r\n")).await;
    assert!(matches!(stretch(&web, 0, 4).await, Err(Failed::Endless { .. })));
}

#[tokio::test]
async fn an_answer_that_is_short_is_none() {
    let web = saying("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}").await;
    assert!(matches!(whole(&web).await, Err(Failed::Short { .. })));
    let head = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-9/10\r\n";
    for body in ["Content-Length: 10\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"] {
        let web = saying(format!("{head}{body}")).await;
        let failed = stretch(&web, 0, 10).await.unwrap_err();
        assert!(matches!(failed, Failed::Short { had: 3, wanted: 10, .. }), "{failed}");
    }
    // Said before it is read.
    let web = saying(format!("{head}Content-Length: 3\r\n\r\nabc")).await;
    assert!(matches!(stretch(&web, 0, 10).await, Err(Failed::Short { had: 3, .. })));
}

#[tokio::test]
async fn an_answer_to_another_question_is_none() {
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789",
        "HTTP/1.1 206 Partial Content\r\nContent-Length: 10\r\n\r\n0123456789",
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 1-10/20\r\nContent-Length: 10\r\n\r\n0123456789",
    ] {
        assert!(matches!(stretch(&saying(head).await, 0, 10).await, Err(Failed::Answer { .. })), "{head}");
    }
    let web = saying("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}").await;
    assert!(matches!(whole(&web).await, Err(Failed::Answer { .. })));
    let web = saying("SSH-2.0-OpenSSH\r\n").await;
    assert!(matches!(whole(&web).await, Err(Failed::Broken { .. })));
}

#[tokio::test]
async fn nobody_holds_the_device_up() {
    // No answer at all.
    let (web, _told) = server(|socket, _| async move {
        sleep(Duration::from_secs(60)).await;
        drop(socket);
    })
    .await;
    assert!(matches!(whole(&web).await, Err(Failed::Slow { what: "no answer comes", .. })));
    // A head, and then nothing.
    let (web, _told) = server(|mut socket, _| async move {
        socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n").await.unwrap();
        sleep(Duration::from_secs(60)).await;
        drop(socket);
    })
    .await;
    assert!(matches!(whole(&web).await, Err(Failed::Slow { what: "no bytes come any more", .. })));
    // A byte now and then, which is never too long without one.
    let head =
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-9999/10000\r\nContent-Length: 10000\r\n\r\n";
    let (web, _told) = server(move |mut socket, _| async move {
        socket.write_all(head.as_bytes()).await.unwrap();
        while socket.write_all(b"a").await.is_ok() {
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    assert!(matches!(
        stretch(&web, 0, 10_000).await,
        Err(Failed::Slow { what: "fewer bytes come than have to", .. })
    ));
}

#[tokio::test]
async fn a_connection_is_used_again_and_one_that_was_closed_is_made_anew() {
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
    let (web, mut told) = server(move |mut socket, _| async move {
        socket.write_all(answer).await.unwrap();
        // One more on the same connection, then it is closed without a word.
        if request(&mut socket).await.is_some() {
            socket.write_all(answer).await.unwrap();
        }
    })
    .await;
    for _ in 0..4 {
        assert_eq!(whole(&web).await.unwrap(), "{}");
        sleep(Duration::from_millis(50)).await;
    }
    let mut connections = 0;
    while told.try_recv().is_ok() {
        connections += 1;
    }
    assert_eq!(connections, 2);
}

#[tokio::test]
async fn a_name_that_is_no_name_is_never_asked_for() {
    let web = Web::new("http://127.0.0.1:1/", None, QUICK).unwrap();
    let dir = Dir::new("/".into());
    for source in [&web as &dyn Source, &dir] {
        let failed = source.whole(Folder::Metadata, "../etc/passwd", 1000).await.unwrap_err();
        assert!(matches!(failed, Failed::Name { .. }), "{failed}");
    }
}

#[tokio::test]
async fn a_folder_gives_regular_files_alone() {
    let top = tempfile::tempdir().unwrap();
    let site = Site::default();
    site.put("metadata/timestamp.json", b"{}".to_vec());
    site.put("targets/a.chunks", (0..200_000_u32).map(|at| at as u8).collect());
    site.write(top.path());
    let metadata = top.path().join("metadata");
    std::os::unix::fs::symlink("timestamp.json", metadata.join("1.root.json")).unwrap();
    fs::create_dir(metadata.join("2.root.json")).unwrap();
    let fifo = metadata.join("3.root.json");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let dir: Arc<dyn Source> = Arc::new(Dir::new(top.path().to_owned()));
    assert_eq!(dir.whole(Folder::Metadata, "timestamp.json", 2).await.unwrap(), "{}");
    assert!(matches!(
        dir.whole(Folder::Metadata, "timestamp.json", 1).await,
        Err(Failed::Endless { cap: 1, .. })
    ));
    assert!(matches!(dir.whole(Folder::Metadata, "9.root.json", 9).await, Err(Failed::Missing { .. })));
    for name in ["1.root.json", "2.root.json", "3.root.json"] {
        let failed = dir.whole(Folder::Metadata, name, 9).await.unwrap_err();
        assert!(matches!(failed, Failed::Answer { .. } | Failed::Broken { .. }), "{name}: {failed}");
    }
    let bytes = stretch(&*dir, 70_000, 170_000).await.unwrap();
    assert!(bytes.iter().zip(70_000_u32..).all(|(byte, at)| *byte == at as u8));
    assert!(matches!(stretch(&*dir, 199_999, 200_001).await, Err(Failed::Short { .. })));
    // A folder that is itself a link, and a stick that is not there: neither says that a file is missing.
    fs::rename(top.path().join("metadata"), top.path().join("away")).unwrap();
    std::os::unix::fs::symlink("away", top.path().join("metadata")).unwrap();
    assert!(matches!(dir.whole(Folder::Metadata, "timestamp.json", 9).await, Err(Failed::Broken { .. })));
    let gone = Dir::new(top.path().join("nowhere"));
    assert!(matches!(gone.whole(Folder::Metadata, "timestamp.json", 9).await, Err(Failed::Broken { .. })));
}
