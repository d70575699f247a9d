//! What the user is told of files that take long to come.

use std::time::Duration;

use tokio::time::Instant;

use crate::notice::Notice;

/// What is over within this is not told.
const SILENT: Duration = Duration::from_secs(2);
/// How often it is told anew: each time the picture below is painted again.
const PACE: Duration = Duration::from_secs(1);

/// How far the client's files have come.
#[derive(Debug)]
pub(crate) struct Progress {
    began: Instant,
    files: usize,
    /// All of them, and what of that has come; unknown while the client is asked for sizes.
    bytes: Option<(u64, u64)>,
    told: Option<Notice>,
    /// When to tell it anew.
    next: Instant,
}

impl Progress {
    pub(crate) fn new(files: usize, now: Instant) -> Progress {
        Progress { began: now, files, bytes: None, told: None, next: now + SILENT }
    }

    /// So many bytes are to come in all, and so many have.
    pub(crate) fn come(&mut self, all: u64, come: u64) {
        self.bytes = Some((all, come));
    }

    /// When to [look](Self::look) again.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// Makes what is told true, if it is time for that.
    pub(crate) fn look(&mut self, now: Instant) {
        if now < self.next {
            return;
        }
        self.next = now + PACE;
        let what = if self.files == 1 { "a file".to_owned() } else { format!("{} files", self.files) };
        let (percent, far) = match self.bytes {
            Some((all, come)) => {
                let percent = u128::from(come) * 100 / u128::from(all.max(1));
                let left = left(all, come, now.duration_since(self.began));
                (format!(": {percent} %"), format!("{} of {}{left}. ", size(come), size(all)))
            }
            None => (String::new(), String::new()),
        };
        self.told = Some(Notice {
            title: format!("Copying {what} from your computer{percent}"),
            text: format!("{far}Click here to stop it."),
        });
    }

    /// What is told now; nothing of what has only begun.
    pub(crate) fn told(&self) -> Option<&Notice> {
        self.told.as_ref()
    }
}

/// How long it still takes at the pace so far, if that can be said.
fn left(all: u64, come: u64, spent: Duration) -> String {
    if come == 0 {
        return String::new();
    }
    let left = spent.as_secs_f64() * all.saturating_sub(come) as f64 / come as f64;
    // Fractions of a second, and what is longer than days, tell nothing.
    match left.ceil() as u64 {
        seconds @ 0..100 => format!(", {seconds} s left"),
        seconds => format!(", {} min left", seconds.div_ceil(60)),
    }
}

/// A size for people, in units of 1000.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{} kB", bytes / 1000),
        1_000_000..10_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(progress: &Progress) -> Option<(&str, &str)> {
        progress.told().map(|notice| (&notice.title[..], &notice.text[..]))
    }

    #[test]
    fn what_is_quick_is_not_told_and_what_takes_long_is_told_at_a_pace() {
        let began = Instant::now();
        let mut progress = Progress::new(1, began);
        progress.come(50_000_000, 10_000_000);
        progress.look(began + SILENT - Duration::from_millis(1));
        assert_eq!(text(&progress), None);
        progress.look(progress.next());
        let first =
            ("Copying a file from your computer: 20 %", "10 MB of 50 MB, 8 s left. Click here to stop it.");
        assert_eq!(text(&progress), Some(first));
        progress.come(50_000_000, 40_000_000);
        progress.look(began + SILENT + PACE / 2);
        assert_eq!(text(&progress), Some(first));
        progress.look(progress.next());
        assert_eq!(text(&progress).map(|(title, _)| title), Some("Copying a file from your computer: 80 %"));
    }

    #[test]
    fn any_number_of_bytes_can_be_told() {
        let began = Instant::now();
        let mut progress = Progress::new(3, began);
        progress.look(progress.next());
        assert_eq!(text(&progress), Some(("Copying 3 files from your computer", "Click here to stop it.")));
        for (all, come) in [(0, 0), (1, 0), (1, 1), (u64::MAX, 1), (u64::MAX, u64::MAX), (1, u64::MAX)] {
            progress.come(all, come);
            progress.look(progress.next());
            assert!(text(&progress).is_some());
        }
        progress.come(2_500_000_000_000, 12_340_000_000);
        progress.look(began + Duration::from_secs(100));
        assert_eq!(
            text(&progress),
            Some((
                "Copying 3 files from your computer: 0 %",
                "12.3 GB of 2500.0 GB, 336 min left. Click here to stop it."
            ))
        );
    }
}
