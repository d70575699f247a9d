use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::*;
use crate::recording::tests::{owner, session};

/// A server of a recording, and its directory.
fn server() -> (tempfile::TempDir, PathBuf, Server) {
    let (temp, dir, _) = session();
    let reader = Arc::new(Reader::open(&dir, &owner(), None).unwrap());
    (temp, dir, Server::new(reader, "127.0.0.1:4000".parse().unwrap()))
}

/// The status of an answer, and its body.
fn get(server: &Server, method: &Method, host: &str, path: &str) -> (u16, Vec<u8>) {
    use http_body_util::BodyExt as _;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let answer = server.answer_to(method, host.as_bytes(), path).await;
        let policy = answer.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        let status = answer.status().as_u16();
        (status, answer.into_body().collect().await.unwrap().to_bytes().to_vec())
    })
}

#[test]
fn only_who_knows_the_address_and_names_this_host_reads_and_nobody_writes() {
    let (_temp, _, server) = server();
    let page = |what: &str| format!("/{}/{what}", server.token);
    let here = "127.0.0.1:4000";
    assert_eq!(server.token.len(), 32);
    assert_ne!(server.token, token());
    for what in ["", "page.js", "page.css", "about", "events", "film/0"] {
        assert_eq!(get(&server, &Method::GET, here, &page(what)).0, 200, "{what}");
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::HEAD] {
            assert_eq!(get(&server, &method, here, &page(what)).0, 405, "{method} {what}");
        }
        for host in ["", "localhost:4000", "127.0.0.1", "127.0.0.1:4001", "evil.example:4000", "evil.example"]
        {
            assert_eq!(get(&server, &Method::GET, host, &page(what)).0, 421, "{host} {what}");
        }
        let mut other = server.token.clone();
        other.replace_range(31.., if other.ends_with('0') { "1" } else { "0" });
        for path in [
            format!("/{other}/{what}"),
            format!("/{what}"),
            format!("//{what}"),
            format!("/{}/{what}", &server.token[..31]),
            format!("/{}0/{what}", server.token),
        ] {
            assert_eq!(get(&server, &Method::GET, here, &path).0, 404, "{path}");
        }
    }
    for what in ["film/", "film/-1", "film/99", "film/99999999999999999999999", "film/0/0", "../about", "x"] {
        assert_eq!(get(&server, &Method::GET, here, &page(what)).0, 404, "{what}");
    }
}

#[test]
fn the_page_is_told_the_events_the_gaps_and_the_verdict() {
    let (_temp, dir, server) = server();
    let about = |server: &Server| -> serde_json::Value { serde_json::from_str(&server.about()).unwrap() };
    let before = about(&server);
    assert_eq!((&before["events"], &before["verdict"]), (&false.into(), &serde_json::Value::Null));
    server.look(&dir, &owner(), None);
    let after = about(&server);
    assert_eq!(after["verdict"], "sound");
    assert_eq!(after["progress"], 1000);
    assert_eq!(after["user"], "Ada");
    assert_eq!(after["length_us"], 10_000_000);
    assert_eq!(after["segments"], 3);
    assert_eq!(after["gaps"][0]["reason"], "the link broke");
    let events = get(&server, &Method::GET, "127.0.0.1:4000", &format!("/{}/events", server.token)).1;
    let events: serde_json::Value = serde_json::from_slice(&events).unwrap();
    assert_eq!(events[0]["text"], "focus: foot — ~/notes");
    assert_eq!((&events[0]["kind"], &events[0]["at_us"]), (&"focus".into(), &1_000_000.into()));

    let chunk = dir.join("chunk-000000");
    let mut bytes = std::fs::read(&chunk).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&chunk, bytes).unwrap();
    server.look(&dir, &owner(), None);
    let after = about(&server);
    assert_eq!(after["verdict"], "damaged");
    assert!(after["problem"].as_str().unwrap().contains("chunk-000000"), "{after}");
}

#[test]
fn a_browser_is_answered_and_who_says_nothing_or_too_much_is_not_waited_for() {
    let (_temp, _, mut server) = server();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    server.host = address.to_string();
    let token = server.token.clone();
    runtime.spawn(serve(listener, Arc::new(server)));
    let ask = |request: String| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    // Connections that say nothing, but for one place.
    let silent: Vec<_> = (1..MAX_CONNECTIONS).map(|_| TcpStream::connect(address).unwrap()).collect();
    let request =
        |what: &str| format!("GET /{token}/{what} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let answer = ask(request("film/0"));
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("x-codecs: avc1."), "{answer:.300}");
    assert!(answer.contains("ftyp") && answer.contains("moof"));
    let large =
        format!("GET /{token}/ HTTP/1.1\r\nHost: {address}\r\nX: {}\r\n\r\n", "x".repeat(2 * MAX_HEAD));
    assert!(ask(large).starts_with("HTTP/1.1 431"));
    // One more has to wait until one of the silent ones is put out.
    let last = TcpStream::connect(address).unwrap();
    assert!(ask(request("about")).starts_with("HTTP/1.1 200"));
    drop((silent, last));
    runtime.shutdown_background();
}

#[test]
fn nobody_but_this_machine_is_listened_to() {
    for address in ["0.0.0.0:0", "192.0.2.1:80", "[::]:0"] {
        let words = ["play", "nowhere", "--key", "none", "--no-browser", "--listen", address];
        let error = crate::recording::tests::called(&words).unwrap_err();
        assert!(matches!(error, Error::NotLoopback(_)), "{error}");
        assert_eq!(error.exit(), std::process::ExitCode::from(2));
    }
}
