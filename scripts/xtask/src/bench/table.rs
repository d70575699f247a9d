//! The results as a Markdown page.

use std::fmt::Write as _;

use super::measure::{Figures, Latencies, Moving, SIZE};
use crate::{progress::ask, proxy::Shape};

/// The rounds of one host over one link, put together.
fn together(rounds: &[&Figures]) -> Figures {
    let latencies = |of: fn(&Figures) -> &Latencies| {
        let mut all: Vec<f64> = rounds.iter().flat_map(|figures| of(figures).0.iter().copied()).collect();
        all.sort_by(f64::total_cmp);
        Latencies(all)
    };
    let moving = |of: fn(&Figures) -> Moving| {
        rounds.iter().map(|figures| of(figures)).fold(Moving::default(), |sum, one| Moving {
            seconds: sum.seconds + one.seconds,
            shown: sum.shown + one.shown,
            made: sum.made + one.made,
            cpu: sum.cpu + one.cpu,
            bytes: sum.bytes + one.bytes,
        })
    };
    Figures {
        small: latencies(|f| &f.small),
        small_cost: moving(|f| f.small_cost),
        whole: latencies(|f| &f.whole),
        whole_cost: moving(|f| f.whole_cost),
        scroll: moving(|f| f.scroll),
        window: moving(|f| f.window),
        video: moving(|f| f.video),
        under_scroll: latencies(|f| &f.under_scroll),
        under_video: latencies(|f| &f.under_video),
        idle: moving(|f| f.idle),
        memory: rounds.iter().map(|f| f.memory).sum::<f64>() / rounds.len().max(1) as f64,
    }
}

/// A share of sorted latencies: 0.5 is the median.
fn quantile(latencies: &Latencies, share: f64) -> f64 {
    let last = latencies.0.len().saturating_sub(1);
    latencies.0.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
}

/// What is measured, what its ratio should not be above, and the figure.
type Row = (&'static str, Option<f64>, fn(&Figures) -> f64);

/// For latencies' 95th percentiles and for CPU.
const HALF: Option<f64> = Some(0.5);
/// For bytes; at rest there are next to none.
const SEVEN_TENTHS: Option<f64> = Some(0.7);

/// What stands in the table; every figure is the better the smaller it is, but those of frames.
const ROWS: [Row; 29] = [
    ("letter to pixel, median, ms", None, |f| quantile(&f.small, 0.5)),
    ("letter to pixel, p95, ms", HALF, |f| quantile(&f.small, 0.95)),
    ("letter: CPU, ms", HALF, |f| cpu(f.small_cost)),
    ("letter: bytes", SEVEN_TENTHS, |f| bytes(f.small_cost)),
    ("whole screen to pixel, median, ms", None, |f| quantile(&f.whole, 0.5)),
    ("whole screen to pixel, p95, ms", HALF, |f| quantile(&f.whole, 0.95)),
    ("whole screen: CPU, ms", HALF, |f| cpu(f.whole_cost)),
    ("whole screen: bytes", SEVEN_TENTHS, |f| bytes(f.whole_cost)),
    ("scrolling text: frames a second shown (of 60)", None, |f| rate(f.scroll)),
    ("scrolling text: CPU a shown frame, ms", HALF, |f| cpu(f.scroll)),
    ("scrolling text: bytes a shown frame", SEVEN_TENTHS, |f| bytes(f.scroll)),
    ("moving window: frames a second shown (of 60)", None, |f| rate(f.window)),
    ("moving window: CPU a shown frame, ms", HALF, |f| cpu(f.window)),
    ("moving window: bytes a shown frame", SEVEN_TENTHS, |f| bytes(f.window)),
    ("film: frames a second shown (of 30)", None, |f| rate(f.video)),
    ("film: CPU a shown frame, ms", HALF, |f| cpu(f.video)),
    ("film: bytes a shown frame", SEVEN_TENTHS, |f| bytes(f.video)),
    ("letter to pixel while text scrolls, median, ms", None, |f| quantile(&f.under_scroll, 0.5)),
    ("letter to pixel while text scrolls, p95, ms", HALF, |f| quantile(&f.under_scroll, 0.95)),
    ("letter to pixel while the film runs, median, ms", None, |f| quantile(&f.under_video, 0.5)),
    ("letter to pixel while the film runs, p95, ms", HALF, |f| quantile(&f.under_video, 0.95)),
    ("at rest: bytes a second", None, |f| f.idle.bytes as f64 / f.idle.seconds),
    ("at rest: CPU, ms a second", None, |f| f.idle.cpu * 1000.0 / f.idle.seconds),
    ("memory (PSS) with one session, MB", None, |f| f.memory),
    ("letters measured", None, |f| f.small.0.len() as f64),
    ("whole screens measured", None, |f| f.whole.0.len() as f64),
    ("letters measured while text scrolls", None, |f| f.under_scroll.0.len() as f64),
    ("letters measured while the film runs", None, |f| f.under_video.0.len() as f64),
    ("letters that never came", None, |f| {
        [&f.small, &f.whole, &f.under_scroll, &f.under_video]
            .iter()
            .map(|l| l.0.iter().filter(|ms| ms.is_infinite()).count())
            .sum::<usize>() as f64
    }),
];

fn rate(moving: Moving) -> f64 {
    f64::from(moving.shown) / moving.seconds
}

fn cpu(moving: Moving) -> f64 {
    moving.cpu * 1000.0 / f64::from(moving.shown)
}

fn bytes(moving: Moving) -> f64 {
    moving.bytes as f64 / f64::from(moving.shown)
}

fn number(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => "—".to_owned(),
        1000.0.. => format!("{value:.0}"),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// What this machine is, in a line.
pub(super) fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    let count = std::thread::available_parallelism().map_or(0, usize::from);
    let date = ask(std::process::Command::new("date").args(["-u", "+%Y-%m-%d"]), b"").map(|a| a.text());
    format!(
        "{}; {count} processors, {}",
        date.unwrap_or_default().trim(),
        model.unwrap_or("of a kind that the kernel does not name")
    )
}

/// The whole page.
pub(super) fn page(all: &[(Option<Shape>, String, Figures)]) -> String {
    let mut page = String::new();
    let mut put = |line: String| {
        page.push_str(&line);
        page.push('\n');
    };
    put("# The RDP host, measured".to_owned());
    put(String::new());
    put(format!(
        "Made by `scripts/bench rdp`. {}; everything (host, scene, client, X server) on this one machine. xfreerdp 3 with `/gfx:AVC420` under Xvfb, {} by {}.",
        machine(),
        SIZE.0,
        SIZE.1
    ));
    put("A letter is a key press that paints a letter and a mark; the time runs until the client's X server shows it.".into());
    put("CPU is that of all processes of the host (for Lucid with its compositor, for xrdp with its Xorg)."
        .into());
    put("The goals: a ratio of at most 0.5 for CPU and for the 95th percentile of a latency, of 0.7 for bytes; bold is above."
        .into());
    let mut shapes: Vec<Option<Shape>> = Vec::new();
    for (shape, ..) in all {
        if !shapes.contains(shape) {
            shapes.push(*shape);
        }
    }
    for shape in shapes {
        put(String::new());
        put(match shape {
            None => "## No limit on the link".to_owned(),
            Some(shape) => format!(
                "## A slow link: {} ms there and back, {} kB/s",
                shape.delay_ms * 2,
                shape.kilobytes_per_second
            ),
        });
        put(String::new());
        put(rows(all.iter().filter(|(of, ..)| *of == shape).map(|(_, name, figures)| (name, figures)), true));
    }
    page
}

/// The table of some hosts, each with its rounds. With two of them, their ratio; what is above its goal is bold.
pub(super) fn rows<'a>(all: impl Iterator<Item = (&'a String, &'a Figures)>, goals: bool) -> String {
    let mut rounds: Vec<(&String, Vec<&Figures>)> = Vec::new();
    for (name, figures) in all {
        match rounds.iter_mut().find(|(known, _)| *known == name) {
            Some((_, rounds)) => rounds.push(figures),
            None => rounds.push((name, vec![figures])),
        }
    }
    let hosts: Vec<Figures> = rounds.iter().map(|(_, rounds)| together(rounds)).collect();
    let mut head = String::from("| |");
    let mut rule = String::from("| --- |");
    for (name, _) in &rounds {
        let _ = write!(head, " {name} |");
        rule.push_str(" ---: |");
    }
    if hosts.len() == 2 {
        head.push_str(" ratio |");
        rule.push_str(" ---: |");
    }
    let mut lines = vec![head, rule];
    for (what, goal, figure) in ROWS {
        // Not asked for.
        if hosts.iter().all(|host| figure(host).is_nan()) {
            continue;
        }
        let mut row = format!("| {what} |");
        for host in &hosts {
            let _ = write!(row, " {} |", number(figure(host)));
        }
        if let [first, second] = hosts.as_slice() {
            let ratio = figure(first) / figure(second);
            let missed = goals && goal.is_some_and(|goal| ratio > goal);
            let mark = if missed { "**" } else { "" };
            let _ = write!(row, " {mark}{}{mark} |", number(ratio));
        }
        lines.push(row);
    }
    lines.join("\n")
}
