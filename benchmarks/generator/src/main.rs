//! The load that measures a D-Bus bus (``bus1-load ROLE ADDRESS --option value …``).
//!
//! Theory. One program is every client of a measurement, and the relay that stands in for a bus. The measuring role
//! starts the others as children, prints one line of JSON and ends. Messages are built beforehand; of what arrives,
//! only the 16 bytes at the beginning of each message are read. Times are of the monotonic clock, CPU times those of
//! the kernel.
//!
//! Invariants. 1. Nothing waits for ever: a silent bus is an error. 2. No child outlives its parent.
//!
//! Not here: which buses, how often, medians and tables (the Python package around this crate).

mod calls;
mod child;
mod connection;
mod flood;
mod frames;
mod message;
mod meter;
mod options;
mod questions;
mod relay;
mod streams;
mod sys;

use meter::Report;
use options::Options;
use std::io;
use std::process::ExitCode;

type Measure = fn(&Options) -> io::Result<Report>;
type Serve = fn(&Options) -> io::Result<()>;

/// Roles that measure.
const SCENARIOS: [(&str, Measure); 9] = [
    ("call", calls::single),
    ("library-call", calls::with_library),
    ("driver", questions::driver),
    ("pipelined", calls::pipelined),
    ("pairs", calls::crowd),
    ("one-way", streams::one_way),
    ("signals", streams::signals),
    ("connect", streams::connects),
    ("beside-flood", flood::beside_flood),
];

/// Roles that others are measured with.
const OTHERS: [(&str, Serve); 5] = [
    ("echo", calls::echo),
    ("sink", streams::sink),
    ("subscribers", streams::subscribers),
    ("flood", flood::flood),
    ("relay", |options| relay::serve(&options.address)),
];

fn run() -> io::Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    sys::end_with_parent();
    if let Some((_, measure)) = SCENARIOS.iter().find(|(name, _)| *name == options.role) {
        return child::say(&measure(&options)?.json());
    }
    match OTHERS.iter().find(|(name, _)| *name == options.role) {
        Some((_, serve)) => serve(&options),
        None => Err(connection::failed(format!("there is no role {}", options.role))),
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bus1-load: {error}");
            ExitCode::FAILURE
        }
    }
}
