//! A controller that knows one account, lucid with the password "password", and notes what it is asked.

use std::sync::{Arc, Mutex};

use lucid_ipc::accounts::admission_server::Admission;
use lucid_ipc::accounts::{AdmitRequest, Admitted, Done, KnownRequest, KnownResponse, Person, ReportRequest};
use lucid_ipc::tonic::{Request, Response, Status, async_trait};

/// MD4 over "password" in UTF-16LE, as in testdata/account-v1.json.
const NT_HASH: u128 = 0x8846_f7ea_ee8f_b117_ad06_bdd8_30b7_586c;

/// The controller.
#[derive(Clone, Default)]
pub(crate) struct Door {
    /// What it was asked, in words.
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
    /// NLA is not for him: he has to wait, or has a second factor.
    pub(crate) without_nla: bool,
    /// It takes any time.
    pub(crate) hangs: bool,
}

impl Door {
    async fn note(&self, what: String) {
        self.asked.lock().unwrap().push(what);
        if self.hangs {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Admission for Door {
    async fn known(&self, _: Request<KnownRequest>) -> Result<Response<KnownResponse>, Status> {
        self.note("known".to_owned()).await;
        let nt_hash = if self.without_nla { Vec::new() } else { NT_HASH.to_be_bytes().to_vec() };
        let people = vec![Person { name: "lucid".to_owned(), nt_hash }];
        Ok(Response::new(KnownResponse { people }))
    }

    async fn admit(&self, request: Request<AdmitRequest>) -> Result<Response<Admitted>, Status> {
        let AdmitRequest { name, typed, client } = request.into_inner();
        assert!(client.starts_with("127.0.0.1:"), "{client}");
        self.note(format!("admit {name}")).await;
        if name.eq_ignore_ascii_case("lucid") && typed == b"password" {
            Ok(Response::new(Admitted { name: "lucid".to_owned() }))
        } else {
            Err(Status::permission_denied("that is not right"))
        }
    }

    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<Done>, Status> {
        self.note(format!("report {}", request.into_inner().name)).await;
        Ok(Response::new(Done {}))
    }
}
