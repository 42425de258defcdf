//! Calls and replies: one at a time, many outstanding, many pairs; the callee is a process of its own.
//!
//! Theory. The caller is this process, and the callee ("echo") a child with as many connections as there are pairs.
//! Each callee is told who calls it, so its reply is built beforehand, and only the two serials are patched. With
//! one pair both sides block in a read; with many, each side is one process with an epoll loop.

use crate::child::{Child, say, told};
use crate::connection::{CHUNK, Connection, PATIENCE, failed};
use crate::frames::Head;
use crate::message::{CALL, REPLY_SERIAL, SERIAL, TEXT, call, patch, reply, request_name, string};
use crate::meter::{Meter, Report};
use crate::options::Options;
use crate::sys::{self, Poll, libraries};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// The role of a callee: answer until the parent or the bus ends.
pub fn echo(options: &Options) -> io::Result<()> {
    let requests = if options.name.is_empty() { vec![] } else { vec![request_name(2, &options.name)] };
    let opened: io::Result<Vec<_>> =
        (0..options.count).map(|_| Connection::open(&options.address, &requests)).collect();
    let mut connections = opened?;
    let names: Vec<&str> = connections.iter().map(|each| each.name.as_str()).collect();
    say(&names.join(" "))?;
    let mut answers: Vec<_> = told()?.split(' ').map(|caller| Answers::new(caller, options)).collect();
    let mut buffer = vec![0; CHUNK];
    if let ([connection], [answers]) = (connections.as_mut_slice(), answers.as_mut_slice()) {
        connection.stream.set_read_timeout(None)?;
        loop {
            answers.serve(connection, &mut buffer)?;
        }
    }
    let poll = Poll::new()?;
    for (token, connection) in connections.iter().enumerate() {
        poll.add(connection.number(), token as u64)?;
    }
    let mut ready = Vec::new();
    loop {
        poll.wait(&mut ready, Duration::MAX)?;
        for token in &ready {
            let token = *token as usize;
            answers[token].serve(&mut connections[token], &mut buffer)?;
        }
    }
}

/// What one callee answers.
struct Answers {
    reply: Vec<u8>,
    batch: Vec<u8>,
    serial: u32,
    each: bool,
    descriptors: bool,
}

impl Answers {
    fn new(caller: &str, options: &Options) -> Self {
        let (each, descriptors) = (options.each, options.descriptors);
        Self { reply: reply(caller), batch: Vec::new(), serial: 1, each, descriptors }
    }

    /// Read once and answer all calls that are whole: in one write, or each by itself.
    fn serve(&mut self, connection: &mut Connection, buffer: &mut [u8]) -> io::Result<()> {
        let Self { reply, batch, serial, .. } = self;
        batch.clear();
        let found = |head: Head| {
            if head.kind() == CALL {
                *serial += 1;
                patch(reply, SERIAL, *serial);
                patch(reply, REPLY_SERIAL, head.serial());
                batch.extend_from_slice(reply);
            }
        };
        if self.descriptors {
            connection.read_with_descriptors(buffer, found)?;
        } else {
            connection.read(buffer, found)?;
        }
        let length = if self.each { self.reply.len() } else { self.batch.len().max(1) };
        self.batch.chunks(length).try_for_each(|chunk| connection.write(chunk))
    }
}

/// Callers here, their callees in a child.
pub struct Pairs {
    pub child: Child,
    callers: Vec<Caller>,
    buffer: Vec<u8>,
}

impl Pairs {
    /// Connect all of them.
    pub fn open(options: &Options) -> io::Result<Self> {
        let mut child = Child::start("echo", options)?;
        let callees = child.line()?;
        let opened: io::Result<Vec<_>> =
            callees.split(' ').map(|callee| Caller::open(options, callee)).collect();
        let callers = opened?;
        let names: Vec<&str> = callers.iter().map(|caller| caller.connection.name.as_str()).collect();
        child.say(&names.join(" "))?;
        Ok(Self { child, callers, buffer: vec![0; CHUNK] })
    }

    /// One call at a time, by the first caller, until the time is over; the nanoseconds of each.
    pub fn one_at_a_time(&mut self, time: Duration) -> io::Result<Vec<u64>> {
        self.callers[0].one_at_a_time(time, &mut self.buffer)
    }
}

/// One caller.
pub struct Caller {
    connection: Connection,
    calls: Vec<u8>,
    length: usize,
    serial: u32,
    each: bool,
    descriptor: Option<File>,
}

impl Caller {
    fn open(options: &Options, callee: &str) -> io::Result<Self> {
        let mut body = Vec::new();
        string(&mut body, TEXT);
        let descriptor =
            if options.descriptors { Some(File::from(OwnedFd::from(io::pipe()?.0))) } else { None };
        let template = call(callee, 0, "s", &body, u32::from(options.descriptors));
        Self::new(options, template, descriptor)
    }

    fn new(options: &Options, template: Vec<u8>, descriptor: Option<File>) -> io::Result<Self> {
        let connection = Connection::open(&options.address, &[])?;
        let (length, each) = (template.len(), options.each);
        let calls = template.repeat(options.window.max(1) as usize);
        Ok(Self { connection, calls, length, serial: 1, each, descriptor })
    }

    /// Send `count` calls, at most a window of them.
    fn send(&mut self, count: u64) -> io::Result<()> {
        let upto = self.length * count as usize;
        for message in self.calls[..upto].chunks_mut(self.length) {
            self.serial = self.serial.wrapping_add(1).max(2);
            patch(message, SERIAL, self.serial);
            if let Some(descriptor) = &self.descriptor {
                let taken = sys::send(self.connection.number(), message, Some(descriptor.as_raw_fd()))?;
                self.connection.write(&message[taken..])?;
            } else if self.each {
                self.connection.write(message)?;
            }
        }
        if self.descriptor.is_none() && !self.each {
            self.connection.write(&self.calls[..upto])?;
        }
        Ok(())
    }

    /// One call at a time, until the time is over; the nanoseconds of each.
    pub fn one_at_a_time(&mut self, time: Duration, buffer: &mut [u8]) -> io::Result<Vec<u64>> {
        let mut times = Vec::with_capacity(1 << 16);
        let start = Instant::now();
        let mut before = start;
        while before - start < time {
            self.send(1)?;
            self.connection.replies(buffer)?;
            let now = Instant::now();
            times.push((now - before).as_nanos() as u64);
            before = now;
        }
        Ok(times)
    }

    /// Each reply lets one more call out, until the time is over and all are answered; how many that were.
    fn pipeline(&mut self, window: u64, time: Duration, buffer: &mut [u8]) -> io::Result<u64> {
        let start = Instant::now();
        self.send(window)?;
        let (mut sent, mut answered) = (window, 0);
        while answered < sent {
            let replies = self.connection.replies(buffer)?;
            answered += replies;
            if start.elapsed() < time {
                self.send(replies)?;
                sent += replies;
            }
        }
        Ok(answered)
    }
}

/// The role that times calls between two clients, one at a time.
pub fn single(options: &Options) -> io::Result<Report> {
    let mut pairs = Pairs::open(options)?;
    pairs.one_at_a_time(options.warm_up())?;
    let Pairs { child, callers, buffer } = &mut pairs;
    let meter = Meter::start(options.bus, Some(child))?;
    let mut times = callers[0].one_at_a_time(options.time(), buffer)?;
    let mut report = meter.stop(times.len() as u64)?;
    report.add_times(&mut times);
    Ok(report)
}

/// The role that times calls of a client that uses a C library, one at a time.
pub fn with_library(options: &Options) -> io::Result<Report> {
    let mut child = Child::start("echo", options)?;
    let callee = child.line()?;
    let mut caller = libraries::caller(&options.library, &options.address, &callee)?;
    child.say(caller.name())?;
    let mut times_for = |time: Duration| {
        let (mut times, start) = (Vec::new(), Instant::now());
        let mut before = start;
        while before - start < time {
            caller.call()?;
            let now = Instant::now();
            times.push((now - before).as_nanos() as u64);
            before = now;
        }
        io::Result::Ok(times)
    };
    times_for(options.warm_up())?;
    let meter = Meter::start(options.bus, Some(&child))?;
    let mut times = times_for(options.time())?;
    let mut report = meter.stop(times.len() as u64)?;
    report.add_times(&mut times);
    Ok(report)
}

/// The role that has a window of calls outstanding.
pub fn pipelined(options: &Options) -> io::Result<Report> {
    let mut pairs = Pairs::open(options)?;
    let Pairs { child, callers, buffer } = &mut pairs;
    callers[0].pipeline(options.window, options.warm_up(), buffer)?;
    let meter = Meter::start(options.bus, Some(child))?;
    let answered = callers[0].pipeline(options.window, options.time(), buffer)?;
    meter.stop(answered)
}

/// The role of many pairs at once, each with one call at a time.
pub fn crowd(options: &Options) -> io::Result<Report> {
    let mut pairs = Pairs::open(options)?;
    let Pairs { child, callers, buffer } = &mut pairs;
    let poll = Poll::new()?;
    for (token, caller) in callers.iter().enumerate() {
        poll.add(caller.connection.number(), token as u64)?;
    }
    at_once(callers, &poll, options.warm_up(), buffer)?;
    let meter = Meter::start(options.bus, Some(child))?;
    let answered = at_once(callers, &poll, options.time(), buffer)?;
    meter.stop(answered)
}

fn at_once(callers: &mut [Caller], poll: &Poll, time: Duration, buffer: &mut [u8]) -> io::Result<u64> {
    let start = Instant::now();
    let (mut answered, mut waiting, mut ready) = (0, callers.len(), Vec::new());
    callers.iter_mut().try_for_each(|caller| caller.send(1))?;
    while waiting > 0 {
        poll.wait(&mut ready, PATIENCE)?;
        if ready.is_empty() {
            return Err(failed("the bus said nothing"));
        }
        let is_over = start.elapsed() >= time;
        for token in &ready {
            let caller = callers.get_mut(*token as usize).ok_or_else(|| failed("an unknown caller"))?;
            answered += caller.connection.replies(buffer)?;
            if is_over {
                waiting -= 1;
            } else {
                caller.send(1)?;
            }
        }
    }
    Ok(answered)
}
