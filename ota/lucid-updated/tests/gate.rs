//! Whether a system is well, by systems that are and systems that are not.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod support;

use std::{
    fs,
    sync::{Arc, Mutex},
    time::Duration,
};

use lucid_ipc::{
    Access, bind,
    session::{
        GetRequest, GetStatusRequest, ListRequest, RebuildIndexRequest, RebuildIndexResponse, Recording,
        Status as RecorderStatus, TestPart, TestRequest, TestResponse,
        recordings_server::{Recordings, RecordingsServer},
    },
    tonic::{Request, Response, Status, async_trait, transport::Server},
};
use lucid_updated::{
    before::{Before, Part},
    gate::{Check, Data, Rdp, Records, Settled, Unwell, pass},
};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use support::machine::Known;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
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
    host(2).await.check(&Before::default()).await.unwrap();
    for far in [0, 1] {
        assert!(host(far).await.check(&Before::default()).await.is_err(), "{far}");
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    assert!(Rdp { port }.check(&Before::default()).await.is_err());
}

/// A recorder whose test records end so, one after the other, and then as the last one.
struct Ends(Mutex<Vec<Result<TestResponse, Status>>>);

#[async_trait]
impl Recordings for Ends {
    type ListStream = tokio_stream::Empty<Result<Recording, Status>>;

    async fn list(&self, _: Request<ListRequest>) -> Result<Response<Self::ListStream>, Status> {
        Err(Status::unimplemented("nobody asks for it"))
    }

    async fn get(&self, _: Request<GetRequest>) -> Result<Response<Recording>, Status> {
        Err(Status::unimplemented("nobody asks for it"))
    }

    async fn rebuild_index(
        &self,
        _: Request<RebuildIndexRequest>,
    ) -> Result<Response<RebuildIndexResponse>, Status> {
        Err(Status::unimplemented("nobody asks for it"))
    }

    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<RecorderStatus>, Status> {
        Err(Status::unimplemented("nobody asks for it"))
    }

    async fn test(&self, _: Request<TestRequest>) -> Result<Response<TestResponse>, Status> {
        let mut ends = self.0.lock().unwrap();
        let end = if ends.len() > 1 { ends.remove(0) } else { ends[0].clone() };
        end.map(Response::new)
    }
}

fn failed(part: TestPart) -> Result<TestResponse, Status> {
    Ok(TestResponse { failed: part.into(), why: "the disk is gone".to_owned() })
}

fn recorder(dir: &tempfile::TempDir, ends: Vec<Result<TestResponse, Status>>) -> Records {
    let socket = dir.path().join(format!("{}.sock", fs::read_dir(dir.path()).unwrap().count()));
    let (listener, _guard) = bind(&socket, Access::Owner).unwrap();
    let service = RecordingsServer::new(Ends(Mutex::new(ends)));
    tokio::spawn(async move {
        let never = std::future::pending::<()>();
        Server::builder().serve_with_incoming_shutdown(service, listener, never).await.unwrap();
    });
    Records { socket }
}

#[tokio::test]
async fn a_recorder_is_well_when_its_test_record_is_and_otherwise_the_part_is_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let everything = Before::default();
    recorder(&dir, vec![Ok(TestResponse::default())]).check(&everything).await.unwrap();
    for (part, said) in [
        (TestPart::Room, "there is no room: the disk is gone"),
        (TestPart::Writing, "it is not written: the disk is gone"),
        (TestPart::Proof, "what is read again does not verify: the disk is gone"),
        (TestPart::Removal, "it is not removed: the disk is gone"),
    ] {
        assert_eq!(recorder(&dir, vec![failed(part)]).check(&everything).await.unwrap_err(), said);
    }
    let hangs = recorder(&dir, vec![Err(Status::resource_exhausted("one hangs"))]);
    assert_eq!(hangs.check(&everything).await.unwrap_err(), "it is not written: one hangs");
    let refuses = recorder(&dir, vec![Err(Status::permission_denied("who are you"))]);
    assert!(refuses.check(&everything).await.unwrap_err().contains("does not answer"));
    let unknown = recorder(&dir, vec![Ok(TestResponse { failed: 77, why: String::new() })]);
    assert!(unknown.check(&everything).await.unwrap_err().contains("part 77"));
    let gone = Records { socket: dir.path().join("gone") };
    assert!(gone.check(&everything).await.unwrap_err().contains("gone"));
}

#[tokio::test]
async fn a_recorder_has_to_come_as_far_as_that_of_the_old_system_and_no_farther() {
    let dir = tempfile::tempdir().unwrap();
    let before = Before::new(Some(Part::Room));
    for part in [TestPart::Room, TestPart::Writing] {
        recorder(&dir, vec![failed(part)]).check(&before).await.unwrap();
    }
    let gone = Records { socket: dir.path().join("gone") };
    gone.check(&before).await.unwrap_err();
    gone.check(&Before::new(Some(Part::Answer))).await.unwrap();
}

#[tokio::test]
async fn what_fails_once_in_the_old_system_excuses_nothing_and_what_goes_on_failing_does() {
    let dir = tempfile::tempdir().unwrap();
    let mut before = Before::default();
    recorder(&dir, vec![failed(TestPart::Writing), Ok(TestResponse::default())]).note(&mut before).await;
    assert_eq!(before.recorder, None);
    recorder(&dir, vec![failed(TestPart::Room)]).note(&mut before).await;
    assert_eq!(before.recorder, Some(Part::Room));
}

#[tokio::test]
async fn the_data_partition_is_well_when_it_can_be_written() {
    let dir = tempfile::tempdir().unwrap();
    Data { dir: dir.path().to_owned(), kept: true }.check(&Before::default()).await.unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    assert!(Data { dir: dir.path().join("nowhere"), kept: true }.check(&Before::default()).await.is_err());
}

#[tokio::test]
async fn memory_in_place_of_the_data_partition_is_not_well_although_it_can_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let why = Data { dir: dir.path().to_owned(), kept: false }.check(&Before::default()).await.unwrap_err();
    assert!(why.contains("in memory"), "{why}");
}

#[tokio::test]
async fn all_services_have_started_when_their_file_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let check = Settled { path: dir.path().join("settled") };
    assert!(
        check.check(&Before::default()).await.unwrap_err().contains("a service that has to be up is not")
    );
    // Of a recorder that records not as it should it is none.
    check.check(&Before::new(Some(Part::Room))).await.unwrap_err();
    // In the old system it had not started either, or had died since.
    check.check(&Before::new(Some(Part::Answer))).await.unwrap();
    fs::write(&check.path, "").unwrap();
    check.check(&Before::default()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_first_check_that_does_not_pass_in_time_is_the_reason() {
    let check =
        |answer: Result<(), &str>| -> Box<dyn Check> { Box::new(Known(answer.map_err(str::to_owned))) };
    let before = Before::default();
    pass(&[check(Ok(())), check(Ok(()))], &before, Duration::from_secs(60)).await.unwrap();
    let began = tokio::time::Instant::now();
    let unwell =
        pass(&[check(Ok(())), check(Err("no")), check(Ok(()))], &before, Duration::from_secs(60)).await;
    assert_eq!(unwell, Err(Unwell { check: "what is known", reason: "no".into() }));
    let took = began.elapsed();
    assert!(took > Duration::from_secs(50) && took < Duration::from_secs(61), "{took:?}");
    assert_eq!(unwell.unwrap_err().to_string(), "what is known: no");
}
