//! What a host's processes have cost so far.

use std::{collections::BTreeSet, fs};

/// Processor time and memory of several processes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    /// Time on a processor, in seconds.
    pub(super) cpu: f64,
    /// Proportional set size, in megabytes.
    pub(super) memory: f64,
}

/// The cost of `root` and everything below it, the measured scene left out: it is the same program on every host.
pub(super) fn of(roots: &[u32]) -> Cost {
    let mut cost = Cost::default();
    for (pid, name) in family(roots) {
        if name != "bench-scene" {
            cost.cpu += cpu(pid);
            cost.memory += memory(pid);
        }
    }
    cost
}

/// Every process at or below the roots, with its name.
fn family(roots: &[u32]) -> Vec<(u32, String)> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // A process may end between two looks; then it costs nothing more.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let (Some(open), Some(close)) = (stat.find('('), stat.rfind(')')) else { continue };
        let name = stat.get(open + 1..close).unwrap_or_default().to_owned();
        let parent = stat.get(close + 1..).and_then(|rest| rest.split_whitespace().nth(1));
        if let Some(parent) = parent.and_then(|parent| parent.parse::<u32>().ok()) {
            all.push((pid, parent, name));
        }
    }
    let mut family: BTreeSet<u32> = roots.iter().copied().collect();
    loop {
        let more: Vec<u32> = all
            .iter()
            .filter(|(pid, parent, _)| family.contains(parent) && !family.contains(pid))
            .map(|(pid, ..)| *pid)
            .collect();
        if more.is_empty() {
            break;
        }
        family.extend(more);
    }
    all.into_iter().filter(|(pid, ..)| family.contains(pid)).map(|(pid, _, name)| (pid, name)).collect()
}

/// Seconds that all threads of a process have run: `/proc/PID/task/*/schedstat` counts nanoseconds, where
/// `stat` counts hundredths of a second.
fn cpu(pid: u32) -> f64 {
    let mut nanoseconds = 0_u64;
    for entry in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let Ok(text) = fs::read_to_string(entry.path().join("schedstat")) else { continue };
        nanoseconds += text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    }
    nanoseconds as f64 / 1e9
}

fn memory(pid: u32) -> f64 {
    let Ok(text) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else { return 0.0 };
    let kilobytes = text
        .lines()
        .find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse::<f64>().ok());
    kilobytes.unwrap_or(0.0) / 1000.0
}
