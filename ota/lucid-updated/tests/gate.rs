//! Whether a system is well, by systems that are and systems that are not.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod support;

use std::{fs, sync::Arc, time::Duration};

use lucid_updated::gate::{Check, Data, Rdp, Settled, Socket, Unwell, pass};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use support::machine::Known;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UnixListener},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring},
};

/// A connection confirm that takes TLS.
const CONFIRM: [u8; 19] = [3, 0, 0, 19, 14, 0xd0, 0, 0, 0x12, 0x34, 0, 2, 0, 8, 0, 1, 0, 0, 0];

fn acceptor() -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(vec!["lucid".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// An RDP host that gets so far: 0 says nothing, 1 confirms, 2 ends the handshake too.
async fn host(far: u8) -> Rdp {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = [0; 19];
            socket.read_exact(&mut request).await.unwrap();
            assert_eq!((request[0], request[5], request[11]), (3, 0xe0, 1));
            if far > 0 {
                socket.write_all(&CONFIRM).await.unwrap();
            }
            if far > 1 {
                // The client may close before this end has said goodbye.
                drop(acceptor().accept(socket).await);
            }
        }
    });
    Rdp { port }
}

#[tokio::test]
async fn an_rdp_host_is_well_when_its_handshake_ends() {
    host(2).await.check().await.unwrap();
    for far in [0, 1] {
        assert!(host(far).await.check().await.is_err(), "{far}");
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    assert!(Rdp { port }.check().await.is_err());
}

#[tokio::test]
async fn a_service_is_well_when_it_answers_on_its_socket() {
    let dir = tempfile::tempdir().unwrap();
    for (answer, well) in [
        (&b"\0\0\0\x04\0\0\0\0\0"[..], true),
        (&b"HTTP/1.1 400 Bad Request\r\n"[..], false),
        (&b""[..], false),
    ] {
        let path = dir.path().join(format!("{}.sock", answer.len()));
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut preface = [0; 33];
            socket.read_exact(&mut preface).await.unwrap();
            assert!(preface.starts_with(b"PRI * HTTP/2.0"));
            socket.write_all(answer).await.unwrap();
        });
        let socket = Socket { name: "the recorder answers", path };
        assert_eq!(socket.check().await.is_ok(), well, "{answer:?}");
    }
    let gone = Socket { name: "the recorder answers", path: dir.path().join("gone") };
    assert!(gone.check().await.unwrap_err().contains("gone"));
}

#[tokio::test]
async fn the_data_partition_is_well_when_it_can_be_written() {
    let dir = tempfile::tempdir().unwrap();
    Data { dir: dir.path().to_owned(), kept: true }.check().await.unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    assert!(Data { dir: dir.path().join("nowhere"), kept: true }.check().await.is_err());
}

#[tokio::test]
async fn memory_in_place_of_the_data_partition_is_not_well_although_it_can_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let why = Data { dir: dir.path().to_owned(), kept: false }.check().await.unwrap_err();
    assert!(why.contains("in memory"), "{why}");
}

#[tokio::test]
async fn all_services_have_started_when_their_file_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let check = Settled { path: dir.path().join("settled") };
    assert!(check.check().await.unwrap_err().contains("a service that has to be up is not"));
    fs::write(&check.path, "").unwrap();
    check.check().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_first_check_that_does_not_pass_in_time_is_the_reason() {
    let check =
        |answer: Result<(), &str>| -> Box<dyn Check> { Box::new(Known(answer.map_err(str::to_owned))) };
    pass(&[check(Ok(())), check(Ok(()))], Duration::from_secs(60)).await.unwrap();
    let began = tokio::time::Instant::now();
    let unwell = pass(&[check(Ok(())), check(Err("no")), check(Ok(()))], Duration::from_secs(60)).await;
    assert_eq!(unwell, Err(Unwell { check: "what is known", reason: "no".into() }));
    let took = began.elapsed();
    assert!(took > Duration::from_secs(50) && took < Duration::from_secs(61), "{took:?}");
    assert_eq!(unwell.unwrap_err().to_string(), "what is known: no");
}
