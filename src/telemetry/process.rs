//! The `process_*` families, from `/proc/self` and without `unsafe`.
//!
//! Written here because the `prometheus` crate's collector counts whole seconds of CPU time. A file
//! that cannot be read leaves its families out; elsewhere than on Linux there are none. Sources:
//! proc(5).

use std::fs;

use prometheus::proto::MetricFamily;

use crate::telemetry::metrics::Family;

/// Appends what the system says about this process.
pub(crate) fn append(families: &mut Vec<MetricFamily>) {
    if !cfg!(target_os = "linux") {
        return;
    }
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let stat = Stat::parse(&read("/proc/self/stat"));
    let status = read("/proc/self/status");
    let ticks = fs::read("/proc/self/auxv").ok().and_then(|auxv| clock_ticks(&auxv));
    let ticks = ticks.unwrap_or(USER_HZ);
    let boot = field(&read("/proc/stat"), "btime");

    let mut push = |family: Family, value: Option<f64>| {
        families.extend(value.map(|value| family.sample(&[], value).build()));
    };
    push(
        Family::counter("process_cpu_seconds_total", "User and system CPU time spent, in seconds."),
        stat.as_ref().map(|stat| stat.cpu_ticks / ticks),
    );
    push(
        Family::gauge(
            "process_start_time_seconds",
            "When the process started, in seconds since 1970-01-01 UTC.",
        ),
        stat.as_ref().zip(boot).map(|(stat, boot)| boot + stat.start_ticks / ticks),
    );
    push(
        Family::gauge("process_resident_memory_bytes", "Memory in RAM, in bytes."),
        field(&status, "VmRSS:").map(kibibytes),
    );
    push(
        Family::gauge("process_virtual_memory_bytes", "Address space in use, in bytes."),
        field(&status, "VmSize:").map(kibibytes),
    );
    push(Family::gauge("process_threads", "Threads of the process."), field(&status, "Threads:"));
    push(
        Family::gauge(
            "process_open_fds",
            "File descriptors open now; each connection uses one, on both sides.",
        ),
        open_fds(),
    );
    push(
        Family::gauge("process_max_fds", "File descriptors that may be open (soft limit)."),
        field(&read("/proc/self/limits"), "Max open files"),
    );
}

/// Clock ticks a second where the auxiliary vector does not say; 100 on every common architecture.
const USER_HZ: f64 = 100.0;
/// The key of the tick rate in the auxiliary vector, getauxval(3).
const AT_CLKTCK: usize = 17;

/// What is needed of `/proc/self/stat`.
struct Stat {
    /// `utime` + `stime`, fields 14 and 15.
    cpu_ticks: f64,
    /// `starttime`, field 22, since boot.
    start_ticks: f64,
}

impl Stat {
    /// The second field is the command in parentheses and may itself hold spaces and parentheses.
    fn parse(stat: &str) -> Option<Stat> {
        let (_, rest) = stat.rsplit_once(')')?;
        // `rest` begins with field 3.
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
        Some(Stat { cpu_ticks: number(14)? + number(15)?, start_ticks: number(22)? })
    }
}

/// The first number after `name` at the beginning of a line. A limit may be `unlimited`: none then.
fn field(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn kibibytes(value: f64) -> f64 {
    value * 1024.0
}

/// The auxiliary vector is a list of pairs of machine words.
fn clock_ticks(auxv: &[u8]) -> Option<f64> {
    const WORD: usize = size_of::<usize>();
    let word = |bytes: &[u8]| bytes.try_into().map(usize::from_ne_bytes).ok();
    let (_, ticks) = auxv
        .chunks_exact(2 * WORD)
        .filter_map(|pair| Some((word(&pair[..WORD])?, word(&pair[WORD..])?)))
        .find(|(key, _)| *key == AT_CLKTCK)?;
    (ticks > 0).then_some(ticks as f64)
}

/// Since Linux 6.2 the size of the directory is the count; before, it is 0 and the entries are
/// counted.
fn open_fds() -> Option<f64> {
    let size = fs::metadata("/proc/self/fd").ok()?.len();
    if size > 0 {
        return Some(size as f64);
    }
    // The listing itself holds one of them open.
    let entries = fs::read_dir("/proc/self/fd").ok()?.count();
    Some(entries.saturating_sub(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_a_command_with_parentheses() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 4 0 12345 1 2 3";
        let stat = Stat::parse(stat).unwrap();
        assert_eq!((stat.cpu_ticks, stat.start_ticks), (300.0, 12345.0));
        assert!(Stat::parse("").is_none());
        assert!(Stat::parse("7 (cut) S 1").is_none());
    }

    #[test]
    fn fields_are_found_and_unlimited_is_none() {
        let text = "Name:\tx\nVmRSS:\t   12 kB\nMax open files            1024  4096  files\n";
        assert_eq!(field(text, "VmRSS:"), Some(12.0));
        assert_eq!(field(text, "Max open files"), Some(1024.0));
        assert_eq!(field("Max open files   unlimited", "Max open files"), None);
        assert_eq!(field(text, "VmSize:"), None);
    }

    #[test]
    fn the_tick_rate_is_found_in_the_auxiliary_vector() {
        let words = [6usize, 4096, AT_CLKTCK, 250, 0, 0];
        let auxv: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(clock_ticks(&auxv), Some(250.0));
        assert_eq!(clock_ticks(&auxv[..20]), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn every_family_is_there_and_plausible() {
        let mut families = Vec::new();
        append(&mut families);
        let value = |name: &str| {
            let family = families.iter().find(|family| family.name() == name);
            let metric = &family.unwrap_or_else(|| panic!("{name} is missing")).get_metric()[0];
            metric.get_gauge().get_value() + metric.get_counter().get_value()
        };
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_virtual_memory_bytes") >= value("process_resident_memory_bytes"));
        assert!(value("process_start_time_seconds") > 1.6e9);
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_max_fds") >= value("process_open_fds"));
        assert!(value("process_threads") >= 1.0);
        assert!(value("process_cpu_seconds_total") >= 0.0);
    }
}
