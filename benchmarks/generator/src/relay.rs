//! The floor: a process that only receives and sends, in the place of a bus.
//!
//! Theory. It answers what a client says at first (authentication, Hello, AddMatch) from a few canned messages. The
//! first message that is for somebody else decides where all further bytes of that connection go: to the one that it
//! names, or, if it names nobody, to all that have said AddMatch. From then on a read is followed by a write to each
//! of these, and nothing is looked at. Who calls GetId gets that answer for every message. What two hops cost
//! through this is what no bus can be faster than.

use crate::connection::{CHUNK, failed, path_of};
use crate::frames::{Frames, length};
use crate::message::{DRIVER, Parts, RETURN, SERIAL, patch, string};
use crate::sys::{self, Poll};
use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

enum Phase {
    Greeting,
    Asking,
    Talking(Vec<RawFd>),
    Answering(Frames),
}

struct Client {
    stream: UnixStream,
    name: String,
    data: Vec<u8>,
    phase: Phase,
}

/// All that there is.
struct Relay {
    clients: HashMap<RawFd, Client>,
    subscribers: Vec<RawFd>,
    names: HashMap<String, RawFd>,
    made: u64,
}

/// The role of the floor: listen, say so, relay until killed.
pub fn serve(address: &str) -> io::Result<()> {
    let listener = UnixListener::bind(path_of(address))?;
    let poll = Poll::new()?;
    poll.add(listener.as_raw_fd(), listener.as_raw_fd() as u64)?;
    let mut relay = Relay {
        clients: HashMap::new(),
        subscribers: Vec::new(),
        names: HashMap::new(),
        made: 0,
    };
    crate::child::say(&format!("unix:path={}", path_of(address)))?;
    let (mut ready, mut buffer) = (Vec::new(), vec![0; CHUNK]);
    loop {
        poll.wait(&mut ready, Duration::MAX)?;
        for token in &ready {
            let number = *token as RawFd;
            if number == listener.as_raw_fd() {
                let (stream, _) = listener.accept()?;
                poll.add(stream.as_raw_fd(), stream.as_raw_fd() as u64)?;
                relay.welcome(stream);
                continue;
            }
            match sys::receive(number, &mut buffer) {
                Ok((taken, descriptor)) if taken > 0 => {
                    relay.take(number, &buffer[..taken], descriptor.as_ref())
                }
                _ => relay.forget(number),
            }
        }
    }
}

/// The text of a header field with this code and type.
fn text_field(message: &[u8], code: u8, kind: u8) -> Option<&str> {
    let at = message
        .windows(4)
        .position(|four| four == [code, 1, kind, 0])?
        + 4;
    let size = u32::from_le_bytes(message.get(at..at + 4)?.try_into().ok()?) as usize;
    std::str::from_utf8(message.get(at + 4..at + 4 + size)?).ok()
}

fn answer(to: &[u8], text: Option<&str>) -> Vec<u8> {
    let mut body = Vec::new();
    text.iter().for_each(|text| string(&mut body, text));
    let answers = u32::from_le_bytes([to[SERIAL], to[SERIAL + 1], to[SERIAL + 2], to[SERIAL + 3]]);
    let signature = if text.is_some() { "s" } else { "" };
    Parts {
        kind: RETURN,
        serial: 1,
        answers,
        signature,
        body: &body,
        ..Parts::default()
    }
    .build()
}

impl Relay {
    fn welcome(&mut self, stream: UnixStream) {
        self.made += 1;
        let name = format!(":1.{}", self.made);
        self.names.insert(name.clone(), stream.as_raw_fd());
        let client = Client {
            name,
            data: Vec::new(),
            phase: Phase::Greeting,
            stream,
        };
        self.clients.insert(client.stream.as_raw_fd(), client);
    }

    fn forget(&mut self, number: RawFd) {
        if let Some(client) = self.clients.remove(&number) {
            self.names.remove(&client.name);
            self.subscribers.retain(|each| *each != number);
        }
        for client in self.clients.values_mut() {
            if let Phase::Talking(targets) = &mut client.phase {
                targets.retain(|each| *each != number);
            }
        }
    }

    fn take(&mut self, number: RawFd, data: &[u8], descriptor: Option<&OwnedFd>) {
        let Some(client) = self.clients.get_mut(&number) else {
            return;
        };
        match &mut client.phase {
            Phase::Talking(targets) => pass_on(targets, data, descriptor),
            Phase::Answering(frames) => {
                let mut answers = Vec::new();
                frames.feed(data, |head| {
                    patch(
                        &mut client.data,
                        crate::message::REPLY_SERIAL,
                        head.serial(),
                    );
                    answers.extend_from_slice(&client.data);
                });
                let _ = client.stream.write_all(&answers);
            }
            Phase::Greeting | Phase::Asking => {
                client.data.extend_from_slice(data);
                if self.converse(number, descriptor).is_err() {
                    self.forget(number);
                }
            }
        }
    }

    /// What a client says before it talks to others.
    fn converse(&mut self, number: RawFd, descriptor: Option<&OwnedFd>) -> io::Result<()> {
        let client = self
            .clients
            .get_mut(&number)
            .ok_or_else(|| failed("nobody"))?;
        if matches!(client.phase, Phase::Greeting) {
            let Some(at) = client.data.windows(7).position(|text| text == b"BEGIN\r\n") else {
                return Ok(());
            };
            client.data.drain(..at + 7);
            client.phase = Phase::Asking;
            client
                .stream
                .write_all(b"OK 0123456789abcdef0123456789abcdef\r\nAGREE_UNIX_FD\r\n")?;
        }
        while client.data.len() >= 16 && client.data.len() >= length(&client.data) {
            let message = &client.data[..length(&client.data)];
            let to = text_field(message, 6, b's');
            if to != Some(DRIVER) {
                let targets = match to {
                    Some(name) => self.names.get(name).copied().into_iter().collect(),
                    None => self.subscribers.clone(),
                };
                pass_on(&targets, &client.data, descriptor);
                client.phase = Phase::Talking(targets);
                client.data.clear();
                return Ok(());
            }
            let answered = match text_field(message, 3, b's') {
                Some("Hello") => answer(message, Some(&client.name)),
                Some("GetId") => answer(message, Some("0123456789abcdef0123456789abcdef")),
                _ => answer(message, None),
            };
            client.stream.write_all(&answered)?;
            match text_field(message, 3, b's') {
                Some("AddMatch") => self.subscribers.push(number),
                Some("GetId") => {
                    client.data = answered;
                    client.phase = Phase::Answering(Frames::default());
                    return Ok(());
                }
                _ => (),
            }
            let taken = length(&client.data);
            client.data.drain(..taken);
        }
        Ok(())
    }
}

/// Write all of it to each; who has gone gets nothing.
fn pass_on(targets: &[RawFd], data: &[u8], descriptor: Option<&OwnedFd>) {
    for target in targets {
        let (mut at, mut along) = (0, descriptor.map(AsRawFd::as_raw_fd));
        while at < data.len() {
            match sys::send(*target, &data[at..], along.take()) {
                Ok(taken) => at += taken,
                Err(_) => break,
            }
        }
    }
}
