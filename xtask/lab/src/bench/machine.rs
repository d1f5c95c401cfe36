//! What the figures were measured on.

use std::{fs, thread};

use serde_json::{Value, json};

/// The machine, as text for people and programs.
pub(crate) fn describe() -> Value {
    let read = |path| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|m| m.1));
    json!({
        "kernel": read("/proc/sys/kernel/osrelease"),
        "cpu": model.unwrap_or("unknown"),
        "cpus": thread::available_parallelism().map_or(0, usize::from),
        "clock": read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
    })
}

/// Processes that ran or waited to, on average over the last minute.
pub(super) fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(f64::NAN)
}
