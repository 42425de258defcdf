//! What a scenario measures beside its count: the time, CPU of the bus and of the load; and how it is told.

use crate::child::Child;
use crate::sys;
use std::fmt::Write;
use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

/// A measurement that is under way.
pub struct Meter {
    bus: i32,
    child: i32,
    spent: [u64; 2],
    start: Instant,
}

/// How many looks at a bus that does not come to rest.
const LOOKS: u32 = 1000;

/// CPU time of the bus once it waits: the count of a process that runs is as old as its last tick.
fn bus_time(bus: i32) -> io::Result<u64> {
    if bus == 0 {
        return Ok(0);
    }
    for _ in 0..LOOKS {
        let state = fs::read_to_string(format!("/proc/{bus}/stat"))?;
        if !state
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.starts_with(" R"))
        {
            break;
        }
        thread::sleep(Duration::from_micros(100));
    }
    sys::processor_time(bus)
}

fn load_time(child: i32) -> io::Result<u64> {
    Ok(sys::own_processor_time()?
        + if child == 0 {
            0
        } else {
            sys::processor_time(child)?
        })
}

impl Meter {
    /// Begin; the load is this process and `child`.
    pub fn start(bus: i32, child: Option<&Child>) -> io::Result<Self> {
        let child = child.map_or(0, Child::number);
        let spent = [bus_time(bus)?, load_time(child)?];
        Ok(Self {
            bus,
            child,
            spent,
            start: Instant::now(),
        })
    }

    /// End: `count` of what the scenario does were done.
    pub fn stop(self, count: u64) -> io::Result<Report> {
        let seconds = self.start.elapsed().as_secs_f64();
        let load = load_time(self.child)? - self.spent[1];
        let bus = bus_time(self.bus)? - self.spent[0];
        let mut report = Report::default();
        report.add("count", count as f64);
        report.add("seconds", seconds);
        report.add("rate", count as f64 / seconds);
        report.add("busy_rate", count as f64 * 1e9 / (bus + load).max(1) as f64);
        report.add("bus_cpu", bus as f64 / 1e9);
        report.add("load_cpu", load as f64 / 1e9);
        Ok(report)
    }
}

/// Figures by name, for the line of JSON that a scenario prints.
#[derive(Default)]
pub struct Report(Vec<(&'static str, f64)>);

impl Report {
    /// One more figure.
    pub fn add(&mut self, name: &'static str, value: f64) {
        self.0.push((name, value));
    }

    /// Percentiles of times in nanoseconds, as microseconds.
    pub fn add_times(&mut self, times: &mut [u64]) {
        times.sort_unstable();
        for (name, share) in [("p50", 0.5), ("p99", 0.99), ("longest", 1.0)] {
            self.add(name, percentile(times, share) as f64 / 1e3);
        }
    }

    /// The line.
    pub fn json(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.0 {
            let _ = write!(
                text,
                "{}\"{name}\": {value}",
                if text.is_empty() { "{" } else { ", " }
            );
        }
        text + "}"
    }
}

/// The least of sorted `times` that `share` of them do not exceed; 0 if there are none.
fn percentile(times: &[u64], share: f64) -> u64 {
    let rank = (times.len() as f64 * share).ceil() as usize;
    times.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

/// Bytes: a line of a file in /proc that counts in kB.
pub fn memory(bus: i32, file: &str, name: &str) -> io::Result<f64> {
    let text = fs::read_to_string(format!("/proc/{bus}/{file}"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap_or("");
    Ok(line
        .split_whitespace()
        .next()
        .and_then(|kib| kib.parse::<f64>().ok())
        .unwrap_or(0.0)
        * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let times: Vec<u64> = (1..=100).collect();
        assert_eq!(
            [0.5, 0.99, 1.0].map(|share| percentile(&times, share)),
            [50, 99, 100]
        );
        assert_eq!((percentile(&[7], 0.5), percentile(&[], 0.5)), (7, 0));
    }

    #[test]
    fn a_report_is_one_object() {
        let mut report = Report::default();
        report.add("count", 2.0);
        report.add_times(&mut [3000, 1000]);
        assert_eq!(
            report.json(),
            r#"{"count": 2, "p50": 1, "p99": 3, "longest": 3}"#
        );
    }
}
