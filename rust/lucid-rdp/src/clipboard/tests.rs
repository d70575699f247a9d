use lucid_ipc::session::event::Data;
use std::io::Write as _;

use super::*;

fn outcome(item: &Item) -> (Outcome, &Data) {
    match item {
        Item::Event(event) => (event.outcome(), event.data.as_ref().unwrap()),
        other => panic!("{other:?}"),
    }
}

fn told(events: &[Item]) -> Vec<(Outcome, &Data)> {
    events.iter().map(outcome).collect()
}

async fn pasted(form: Form, content: &'static [u8], recorded: bool) -> (Option<Vec<u8>>, Vec<Item>) {
    let (from, to) = std::io::pipe().unwrap();
    let writer = std::thread::spawn(move || {
        let _ = { to }.write_all(content);
    });
    let got = read_program(from.into(), form, 20, recorded).await;
    writer.join().unwrap();
    got
}

#[tokio::test]
async fn a_paste_is_told_with_size_and_hash_of_what_the_program_has_and_one_that_is_refused_without() {
    let clipboard = |bytes, hash: Option<&[u8]>| {
        Data::Clipboard(lucid_ipc::session::Clipboard {
            direction: Direction::ToClient.into(),
            r#type: "text/plain".to_owned(),
            bytes,
            hash: hash.map(|text| blake3::hash(text).as_bytes().to_vec()).unwrap_or_default().into(),
        })
    };
    let (data, events) = pasted(Form::Text, b"known", true).await;
    assert_eq!(data.unwrap().len(), 12);
    assert_eq!(told(&events), [(Outcome::Allowed, &clipboard(5, Some(b"known")))]);
    // Nobody wants the hash.
    let (_, events) = pasted(Form::Text, b"known", false).await;
    assert_eq!(told(&events), [(Outcome::Allowed, &clipboard(5, None))]);
    // Too large for the program, and for the client.
    let (data, events) = pasted(Form::Text, &[b'x'; 1000], true).await;
    assert!(data.is_none());
    assert_eq!(told(&events)[1], (Outcome::Refused, &clipboard(21, None)));
    let (data, events) = pasted(Form::Text, &[b'x'; 15], true).await;
    assert!(data.is_none());
    let told_of = told(&events);
    assert!(matches!(told_of[0].1, Data::Violation(violation) if violation.rule == "clipboard.max_bytes"));
    assert_eq!(told_of[1].0, Outcome::Refused);
    // What is no picture came whole, and did not cross.
    let (data, events) = pasted(Form::Dib, b"no picture", true).await;
    assert!(data.is_none());
    let told_of = told(&events);
    assert!(matches!(told_of[..], [(Outcome::Failed, Data::Clipboard(failed))]
        if failed.r#type == "image/png" && failed.bytes == 10 && failed.hash.len() == 32));
}
