//! A pair beside a flood: a client emits as fast as it can, and its one subscriber never reads.
//!
//! Theory. The pair is measured while the flood lasts, from the moment at which the subscriber's socket has had
//! time to fill. Everybody is of one user. Afterwards it is told who was cut off, and how far the memory of the
//! bus has grown at its peak.

use crate::calls::Pairs;
use crate::child::{Child, say};
use crate::connection::Connection;
use crate::message::{INTERFACE, driver_call, signal};
use crate::meter::{Meter, Report, memory};
use crate::options::Options;
use crate::sys;
use std::io;

/// Signals in one write of the flooder.
const BURST: usize = 16;

/// The role of the flooder: until the bus cuts it off, or the parent ends it.
pub fn flood(options: &Options) -> io::Result<()> {
    let mut connection = Connection::open(&options.address, &[])?;
    let data = signal(0, options.size.max(1)).repeat(BURST);
    connection.stream.set_write_timeout(None)?;
    say("ready")?;
    loop {
        connection.write(&data)?;
    }
}

/// The role of the pair.
pub fn beside_flood(options: &Options) -> io::Result<Report> {
    let rule = format!("type='signal',interface='{INTERFACE}',member='Tick'");
    let reader = Connection::open(&options.address, &[driver_call(2, "AddMatch", &[&rule])])?;
    let mut pairs = Pairs::open(options)?;
    pairs.one_at_a_time(options.warm_up())?;
    let before = memory(options.bus, "smaps_rollup", "Rss:")?;
    let mut flooder = Child::start("flood", options)?;
    flooder.line()?;
    let meter = Meter::start(0, None)?;
    let mut times = Vec::new();
    let mut innocent_is_cut_off = false;
    for _ in 0..2 {
        // What the first half has seen is kept, whatever happens in the second.
        match pairs.one_at_a_time(options.time() / 2) {
            Ok(more) => times.extend(more),
            Err(_) => innocent_is_cut_off = true,
        }
    }
    let mut report = meter.stop(times.len() as u64)?;
    report.add_times(&mut times);
    report.add("growth", memory(options.bus, "status", "VmHWM:")? - before);
    report.add(
        "innocent_cut_off",
        f64::from(innocent_is_cut_off || pairs.child.has_ended()),
    );
    report.add("flooder_cut_off", f64::from(flooder.has_ended()));
    report.add("reader_cut_off", f64::from(sys::hung_up(&reader.stream)));
    Ok(report)
}
