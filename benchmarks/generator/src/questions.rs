//! Calls that the bus itself answers, one at a time.
//!
//! Theory. A set of questions is asked in turn, over and over; each is built beforehand, and only its serial is patched.

use crate::connection::{CHUNK, Connection, failed};
use crate::message::{SERIAL, driver_call, patch, request_name};
use crate::meter::{Meter, Report};
use crate::options::Options;
use std::io;
use std::time::{Duration, Instant};

const NAME: &str = "org.bus1.Benchmark.Asked";
/// As a proxy of GDBus has it.
const RULE: &str = "type='signal',sender='org.bus1.Benchmark.Asked',path='/org/bus1/Benchmark',\
    interface='org.freedesktop.DBus.Properties',member='PropertiesChanged'";

/// The role that times what the bus answers; `--name` says which questions.
pub fn driver(options: &Options) -> io::Result<Report> {
    let questions = match options.name.as_str() {
        "" => vec![driver_call(2, "GetId", &[])],
        "rules" => vec![driver_call(2, "AddMatch", &[RULE]), driver_call(2, "RemoveMatch", &[RULE])],
        "owner" => vec![driver_call(2, "GetNameOwner", &[NAME])],
        "credentials" => vec![driver_call(2, "GetConnectionCredentials", &[NAME])],
        "names" => vec![request_name(2, NAME), driver_call(2, "ReleaseName", &[NAME])],
        other => return Err(failed(format!("there are no questions {other}"))),
    };
    let owns = ["owner", "credentials"].contains(&options.name.as_str());
    let requests = if owns { vec![request_name(2, NAME)] } else { vec![] };
    let connection = Connection::open(&options.address, &requests)?;
    let mut asker = Asker { connection, questions, serial: 2, buffer: vec![0; CHUNK] };
    asker.ask(options.warm_up())?;
    let meter = Meter::start(options.bus, None)?;
    let mut times = asker.ask(options.time())?;
    let mut report = meter.stop(times.len() as u64)?;
    report.add_times(&mut times);
    Ok(report)
}

struct Asker {
    connection: Connection,
    questions: Vec<Vec<u8>>,
    serial: u32,
    buffer: Vec<u8>,
}

impl Asker {
    /// All questions in turn, until the time is over; the nanoseconds of each.
    fn ask(&mut self, time: Duration) -> io::Result<Vec<u64>> {
        let mut times = Vec::with_capacity(1 << 16);
        let start = Instant::now();
        let mut before = start;
        while before - start < time {
            for question in &mut self.questions {
                self.serial = self.serial.wrapping_add(1).max(2);
                patch(question, SERIAL, self.serial);
                self.connection.write(question)?;
                self.connection.replies(&mut self.buffer)?;
                let now = Instant::now();
                times.push((now - before).as_nanos() as u64);
                before = now;
            }
        }
        Ok(times)
    }
}
