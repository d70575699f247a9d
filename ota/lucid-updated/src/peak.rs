//! How much memory this program has had at most.

use std::fs;

/// What the kernel says of this process (proc_pid_status(5)).
const STATUS: &str = "/proc/self/status";

/// The most memory that this process has had in RAM, in bytes. None where the kernel does not say it.
#[must_use]
pub fn memory() -> Option<u64> {
    match fs::read_to_string(STATUS) {
        Ok(status) => of(&status),
        Err(error) => {
            tracing::warn!("reading {STATUS}: {error}");
            None
        }
    }
}

/// `VmHWM`, which is in kibibytes whatever it says.
fn of(status: &str) -> Option<u64> {
    let said = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    said.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_what_the_kernel_says() {
        assert_eq!(of("Name:\tx\nVmPeak:\t  999 kB\nVmHWM:\t    2048 kB\n"), Some(2 << 20));
        for status in ["", "VmHWM:", "VmHWM:\t1 MB", "VmHWM:\t18446744073709551615 kB"] {
            assert_eq!(of(status), None, "{status:?}");
        }
        assert!(memory().is_some_and(|bytes| bytes > 100_000));
    }
}
