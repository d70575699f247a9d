use super::*;
use crate::drives::irp::{Access, Disposition, Kind};

const OPEN: Open = Open { access: Access::Read, disposition: Disposition::Open, kind: Kind::File };

fn attached() -> (Link, Drive) {
    let link = Link::default();
    link.attach();
    link.add(5, "home");
    let drive = link.drive("home").unwrap();
    (link, drive)
}

/// Completion number and major function of the next question.
fn asked(link: &Link) -> Option<(u32, u32)> {
    let bytes = link.output()?;
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    Some((number(12), number(16)))
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_answers_is_waited_for_no_longer_than_this() {
    let (link, drive) = attached();
    let begin = tokio::time::Instant::now();
    assert_eq!(link.open(&drive, "\\a", OPEN).await.err(), Some(Errno::TIMEDOUT));
    assert_eq!(begin.elapsed(), PATIENCE);
    // Questions are not collected without end.
    for _ in 1..MAX_WAITING {
        assert_eq!(link.open(&drive, "\\a", OPEN).await.err(), Some(Errno::TIMEDOUT));
    }
    let begin = tokio::time::Instant::now();
    assert_eq!(link.open(&drive, "\\a", OPEN).await.err(), Some(Errno::IO));
    assert!(begin.elapsed().is_zero());
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_opened_too_late_is_closed() {
    let (link, drive) = attached();
    assert!(link.open(&drive, "\\a", OPEN).await.is_err());
    let (completion, _) = asked(&link).unwrap();
    link.complete(5, completion, STATUS_SUCCESS, vec![7, 0, 0, 0, 0]);
    let (completion, major) = asked(&link).unwrap();
    assert_eq!(major, 2);
    link.complete(5, completion, STATUS_SUCCESS, Vec::new());
    assert!(link.state.borrow().waiting.is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_client_that_goes_is_told_at_once() {
    for gone in [Link::detach as fn(&Link), |link: &Link| link.remove(5), Link::attach] {
        let (link, drive) = attached();
        let begin = tokio::time::Instant::now();
        let (opened, ()) = tokio::join!(link.open(&drive, "\\a", OPEN), async { gone(&link) });
        assert_eq!(opened.err(), Some(Errno::NOTCONN));
        assert_eq!(link.open(&drive, "\\a", OPEN).await.err(), Some(Errno::NOTCONN));
        assert!(begin.elapsed().is_zero() && link.output().is_none());
        assert_eq!(link.drive("home"), Err(Errno::NOENT));
    }
}

#[tokio::test(start_paused = true)]
async fn files_of_one_connection_are_not_those_of_the_next() {
    let (link, drive) = attached();
    let (file, ()) = tokio::join!(link.open(&drive, "\\a", OPEN), async {
        let (completion, _) = asked(&link).unwrap();
        link.complete(5, completion, STATUS_SUCCESS, vec![7, 0, 0, 0, 0]);
    });
    let handle = file.unwrap().keep().unwrap();
    link.attach();
    link.add(5, "home");
    assert_eq!(link.call(handle, Function::Read, &irp::read(0, 1)).await.err(), Some(Errno::NOTCONN));
    assert!(link.output().is_none());
}

#[tokio::test(start_paused = true)]
async fn answers_that_nobody_asked_for_are_passed_over() {
    let (link, drive) = attached();
    let (opened, ()) = tokio::join!(link.open(&drive, "\\a", OPEN), async {
        let (completion, _) = asked(&link).unwrap();
        link.complete(6, completion, STATUS_SUCCESS, vec![1, 0, 0, 0]);
        link.complete(5, completion + 1, STATUS_SUCCESS, vec![2, 0, 0, 0]);
        link.complete(5, completion, 0xc000_0034, Vec::new());
        link.complete(5, completion, STATUS_SUCCESS, vec![3, 0, 0, 0]);
    });
    assert_eq!(opened.err(), Some(Errno::NOENT));
}
