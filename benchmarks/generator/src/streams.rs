//! Messages that nobody answers: from one sender to one receiver, and signals to many subscribers.
//!
//! Theory. The sender is this process, the receivers are a child. So that no bus is measured while it merely
//! hoards, the sender is at most a window ahead; the receiver says by a byte on a pipe, beside the bus, when it
//! has had another part. A window is large enough that the pipe costs nothing.

use crate::child::{Child, say};
use crate::connection::{CHUNK, Connection, PATIENCE, failed};
use crate::message::{CALL, INTERFACE, NO_REPLY, SIGNAL, array, call, driver_call, signal};
use crate::meter::{Meter, Report};
use crate::options::Options;
use crate::sys::Poll;
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// Bytes that one write holds at most, unless a single message is larger.
const BATCH: usize = 64 * 1024;
/// Bytes of bodies and headers that are on the way at most, roughly.
const AHEAD: usize = 1024 * 1024;
/// Parts that a window is cut into.
const PARTS: usize = 4;
/// What a header takes, roughly.
const HEADER: usize = 144;

/// How messages of this size are sent: so many in one write, and so many of such writes to a part.
fn plan(size: usize) -> (usize, usize) {
    let batch = (BATCH / (size + HEADER)).max(1);
    let writes = (AHEAD / PARTS / (batch * (size + HEADER))).max(1);
    (batch, writes)
}

/// The role of a receiver: a byte to the parent for each part.
pub fn sink(options: &Options) -> io::Result<()> {
    let mut connection = Connection::open(&options.address, &[])?;
    let (batch, writes) = plan(options.size);
    let part = (batch * writes) as u64;
    say(&connection.name)?;
    let (mut buffer, mut received, mut told) = (vec![0; CHUNK], 0u64, 0u64);
    let mut output = io::stdout().lock();
    loop {
        connection.read(&mut buffer, |head| {
            received += u64::from(head.kind() == CALL)
        })?;
        while received >= told + part {
            told += part;
            output.write_all(b".")?;
            output.flush()?;
        }
    }
}

/// The role of a sender of calls that want no reply.
pub fn one_way(options: &Options) -> io::Result<Report> {
    let mut child = Child::start("sink", options)?;
    let to = child.line()?;
    let mut connection = Connection::open(&options.address, &[])?;
    let (batch, writes) = plan(options.size);
    let data = call(&to, NO_REPLY, "ay", &array(options.size), 0).repeat(batch);
    let mut send =
        |connection: &mut Connection| (0..writes).try_for_each(|_| connection.write(&data));
    ahead(&mut child, &mut connection, options.warm_up(), &mut send)?;
    let meter = Meter::start(options.bus, Some(&child))?;
    let parts = ahead(&mut child, &mut connection, options.time(), &mut send)?;
    meter.stop(parts * (batch * writes) as u64)
}

/// Send parts until the time is over, at most a window ahead; how many, once all have been received.
fn ahead(
    child: &mut Child,
    connection: &mut Connection,
    time: Duration,
    send: &mut dyn FnMut(&mut Connection) -> io::Result<()>,
) -> io::Result<u64> {
    let (start, mut sent, mut received) = (Instant::now(), 0, 0);
    while sent == 0 || start.elapsed() < time {
        send(connection)?;
        sent += 1;
        if sent - received >= PARTS as u64 {
            child.credit()?;
            received += 1;
        }
    }
    (received..sent).try_for_each(|_| child.credit())?;
    Ok(sent)
}

/// The role of subscribers: a byte to the parent for each burst that all of them have had.
pub fn subscribers(options: &Options) -> io::Result<()> {
    let rule = format!("type='signal',interface='{INTERFACE}',member='Tick'");
    let subscribe = [driver_call(2, "AddMatch", &[&rule])];
    let opened: io::Result<Vec<_>> = (0..options.count)
        .map(|_| Connection::open(&options.address, &subscribe))
        .collect();
    let (mut connections, poll) = (opened?, Poll::new()?);
    for (token, connection) in connections.iter().enumerate() {
        poll.add(connection.number(), token as u64)?;
    }
    say("ready")?;
    let burst = options.burst * options.count as u64;
    let (mut buffer, mut ready, mut received, mut told) = (vec![0; CHUNK], Vec::new(), 0u64, 0u64);
    let mut output = io::stdout().lock();
    loop {
        poll.wait(&mut ready, PATIENCE)?;
        if ready.is_empty() {
            return Err(failed("the bus said nothing"));
        }
        for token in &ready {
            let connection = &mut connections[*token as usize];
            connection.read(&mut buffer, |head| {
                received += u64::from(head.kind() == SIGNAL)
            })?;
        }
        while received >= told + burst {
            told += burst;
            output.write_all(b".")?;
            output.flush()?;
        }
    }
}

/// The role of an emitter; what is counted are deliveries.
pub fn signals(options: &Options) -> io::Result<Report> {
    let mut child = Child::start("subscribers", options)?;
    child.line()?;
    let mut connection = Connection::open(&options.address, &[])?;
    let data = signal(options.arguments, options.size).repeat(options.burst as usize);
    let mut send = |connection: &mut Connection| connection.write(&data);
    ahead(&mut child, &mut connection, options.warm_up(), &mut send)?;
    let meter = Meter::start(options.bus, Some(&child))?;
    let bursts = ahead(&mut child, &mut connection, options.time(), &mut send)?;
    meter.stop(bursts * options.burst * options.count as u64)
}

/// The role of clients that come and go.
pub fn connects(options: &Options) -> io::Result<Report> {
    Connection::open(&options.address, &[])?;
    let meter = Meter::start(options.bus, None)?;
    let (start, mut count) = (Instant::now(), 0);
    while count == 0 || start.elapsed() < options.time() {
        Connection::open(&options.address, &[])?;
        count += 1;
    }
    meter.stop(count)
}
