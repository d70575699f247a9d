//! `sspi`'s SPNEGO client, which checks everything that the host says, against the host's part.

use ironrdp_connector::sspi::credssp::{ClientMode, ClientState, CredSspClient, CredSspMode};
use ironrdp_connector::sspi::generator::GeneratorState;
use ironrdp_connector::sspi::ntlm::NtlmConfig;
use ironrdp_connector::sspi::{
    self, AuthIdentityBuffers, BufferType, ClientRequestFlags, Credentials, NegotiateConfig, SecurityBuffer,
    SecurityBufferRef, Sspi as _, SspiImpl as _, Username,
};

use super::*;
use crate::account::Accounts;

const KEY: &[u8] = b"the bits of a public key";

fn accounts() -> Accounts {
    Accounts::load(std::path::Path::new("testdata/account-v1.json")).unwrap()
}

fn lookup() -> Lookup {
    let lookup = Lookup::default();
    lookup.set(accounts().into());
    lookup
}

/// Whom the host lets in, or why it does not; `tamper` may change what the client sends, by its place.
fn logon(
    user: &str,
    password: &str,
    seen_key: &[u8],
    mut tamper: impl FnMut(usize, &mut TsRequest),
) -> Result<AuthIdentity, Wrong> {
    let identity =
        AuthIdentity { username: Username::parse(user).unwrap(), password: password.to_owned().into() };
    let mode = ClientMode::Negotiate(NegotiateConfig {
        protocol_config: Box::new(NtlmConfig::new("test".to_owned())),
        package_list: Some("ntlm,!kerberos,!pku2u".to_owned()),
        client_computer_name: "test".to_owned(),
    });
    let mut client = CredSspClient::new(
        seen_key.to_vec(),
        Credentials::AuthIdentity(identity),
        CredSspMode::WithCredentials,
        mode,
        "TERMSRV/test".to_owned(),
    )
    .unwrap();
    let lookup = lookup();
    let mut host = Exchange::new(&lookup, KEY);
    let mut to_client = TsRequest::default();
    for place in 0.. {
        let GeneratorState::Completed(state) = client.process(to_client).start() else {
            panic!("NTLM asks nobody")
        };
        let (ClientState::ReplyNeeded(mut request) | ClientState::FinalMessage(mut request)) =
            state.expect("what the host said was right");
        if place == 0 {
            assert!(is_wrapped(request.nego_tokens.as_deref().unwrap()));
        }
        tamper(place, &mut request);
        match host.take(&request)? {
            Step::Reply(reply) => to_client = reply,
            Step::Finished(identity) => {
                assert!(matches!(host.take(&request).err(), Some(Wrong::Message)), "nothing comes after it");
                return Ok(identity);
            }
        }
    }
    unreachable!("a client does not go on forever")
}

fn untouched(_: usize, _: &mut TsRequest) {}

#[test]
fn a_client_that_checks_the_hosts_signature_and_key_hands_over_its_password() {
    for user in ["lucid", "LUCID", "DOMAIN\\lucid", "lucid@domain"] {
        let identity = logon(user, "password", KEY, untouched).unwrap();
        assert_eq!(
            accounts().admits(identity.username.account_name(), identity.password.as_ref()),
            Some("lucid")
        );
    }
}

#[test]
fn an_unknown_user_a_wrong_password_and_another_key_are_refused_alike() {
    for (user, password, key) in
        [("lucid", "wrong", KEY), ("nobody", "password", KEY), ("lucid", "password", &b"another key"[..])]
    {
        assert_eq!(
            logon(user, password, key, untouched).err(),
            Some(Wrong::Credentials),
            "{user} {password}"
        );
    }
}

#[test]
fn a_client_that_signs_its_answer_has_to_sign_the_list_of_mechanisms_too() {
    let unsigned = logon("lucid", "password", KEY, |_, request| {
        let Some(token) = request.nego_tokens.as_deref() else { return };
        if let Some(response) = spnego::read_response(token) {
            request.nego_tokens = Some(spnego::response(State::Incomplete, false, response.token, None));
        }
    });
    assert_eq!(unsigned.err(), Some(Wrong::Message));
    let forged = logon("lucid", "password", KEY, |_, request| {
        let Some(token) = request.nego_tokens.as_deref() else { return };
        if let Some(response) = spnego::read_response(token)
            && response.mic.is_some()
        {
            request.nego_tokens =
                Some(spnego::response(State::Incomplete, false, response.token, Some(&[1; 16])));
        }
    });
    assert_eq!(forged.err(), Some(Wrong::Credentials));
}

/// NTLM as a client has it, without SPNEGO.
struct Ntlm {
    ntlm: sspi::Ntlm,
    credentials: Option<AuthIdentityBuffers>,
}

impl Ntlm {
    fn new(password: &str) -> Ntlm {
        let mut ntlm = sspi::Ntlm::with_config(NtlmConfig::new("test".to_owned()));
        let username = Username::parse("lucid").unwrap();
        let identity = AuthIdentity { username, password: password.to_owned().into() };
        let acquired = ntlm
            .acquire_credentials_handle()
            .with_credential_use(sspi::CredentialUse::Outbound)
            .with_auth_data(&identity)
            .execute(&mut ntlm)
            .unwrap();
        Ntlm { ntlm, credentials: acquired.credentials_handle }
    }

    fn say(&mut self, heard: &[u8]) -> Vec<u8> {
        let mut heard = [SecurityBuffer::new(heard.to_vec(), BufferType::Token)];
        let mut said = vec![SecurityBuffer::new(Vec::new(), BufferType::Token)];
        let mut builder = self
            .ntlm
            .initialize_security_context()
            .with_credentials_handle(&mut self.credentials)
            .with_context_requirements(ClientRequestFlags::INTEGRITY | ClientRequestFlags::CONFIDENTIALITY)
            .with_target_data_representation(sspi::DataRepresentation::Native)
            .with_target_name("TERMSRV/test")
            .with_input(&mut heard)
            .with_output(&mut said);
        self.ntlm.initialize_security_context_impl(&mut builder).unwrap().resolve_to_result().unwrap();
        said.remove(0).buffer
    }

    /// The signature of its first message.
    fn sign(&self, mut data: Vec<u8>) -> Vec<u8> {
        let mut signature = vec![0; 16];
        let mut parts =
            [SecurityBufferRef::data_buf(&mut data), SecurityBufferRef::token_buf(&mut signature)];
        self.ntlm.clone().make_signature(0, &mut parts, 0).unwrap();
        signature
    }

    /// Whether that is the host's signature of its first message.
    fn knows(&self, mut data: Vec<u8>, signature: &[u8]) -> bool {
        let mut signature = signature.to_vec();
        let mut parts =
            [SecurityBufferRef::data_buf(&mut data), SecurityBufferRef::token_buf(&mut signature)];
        self.ntlm.clone().verify_signature(&mut parts, 0).is_ok()
    }
}

/// What comes of a client that offers Kerberos first, and signs `signed` for the list of what it offers.
fn kerberos_first(password: &str, signed: Option<&[u8]>) -> Result<Ntlm, Wrong> {
    let lookup = lookup();
    let mut host = Exchange::new(&lookup, KEY);
    let mut say = |token: Vec<u8>| {
        let request = TsRequest { nego_tokens: Some(token), ..TsRequest::default() };
        match host.take(&request)? {
            Step::Reply(reply) => Ok(reply.nego_tokens.unwrap()),
            Step::Finished(_) => panic!("let in without a proof"),
        }
    };
    let offer = ntlm::tests::bytes(KERBEROS_FIRST);
    // The host asks for NTLM, and takes nothing for it that was said for Kerberos.
    let chosen = ntlm::tests::bytes("a115 3013 a003 0a0101 a10c 060a2b06010401823702020a");
    assert_eq!(say(offer)?, chosen);
    let mut client = Ntlm::new(password);
    let wrapped = |token: &[u8], mic| spnego::response(State::Incomplete, false, Some(token), mic);
    let challenge = say(wrapped(&client.say(&[]), None))?;
    let challenge = spnego::read_response(&challenge).unwrap().token.unwrap();
    let answer = client.say(challenge);
    let mic = signed.map(|signed| client.sign(signed.to_vec()));
    let last = say(wrapped(&answer, mic.as_deref()))?;
    let mic = spnego::read_response(&last).unwrap().mic.unwrap().to_vec();
    assert!(client.knows(signed.unwrap().to_vec(), &mic));
    Ok(client)
}

const KERBEROS_FIRST: &str = "a02f 302d a024 3022 06092a864882f712010202 06092a864886f712010202 \
    060a2b06010401823702020a a205 0403 616263";

#[test]
fn a_client_that_would_rather_have_kerberos_is_asked_for_ntlm_and_both_sign_what_it_offered() {
    let offer = ntlm::tests::bytes(KERBEROS_FIRST);
    let list = spnego::read_init(&offer).unwrap().mechanisms;
    assert!(kerberos_first("password", Some(list)).is_ok());
    assert_eq!(kerberos_first("wrong", Some(list)).err(), Some(Wrong::Credentials));
    // Somebody between them had put something in.
    assert_eq!(kerberos_first("password", Some(&list[2..])).err(), Some(Wrong::Credentials));
    assert_eq!(kerberos_first("password", None).err(), Some(Wrong::Message));
}

#[test]
fn an_old_client_and_one_that_leaves_something_out_are_refused() {
    // What it offers, its answer, its proof with its nonce, its password.
    for place in 0..4 {
        let cut = |what: fn(&mut TsRequest)| {
            let tamper = |at: usize, request: &mut TsRequest| {
                if at == place {
                    what(request);
                }
            };
            logon("lucid", "password", KEY, tamper).err()
        };
        assert_eq!(cut(|request| request.version = 4), Some(Wrong::Message), "version at {place}");
        let emptied = cut(|request| *request = TsRequest::default());
        assert_eq!(emptied, Some(Wrong::Message), "nothing at {place}");
    }
    let without_nonce = logon("lucid", "password", KEY, |_, request| request.client_nonce = None);
    assert_eq!(without_nonce.err(), Some(Wrong::Message));
}
