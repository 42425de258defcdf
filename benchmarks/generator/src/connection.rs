//! One client of a bus: a blocking socket that has said Hello.
//!
//! Theory. Authentication, Hello and what else the client wants first go out in one write, as sd-bus does. After
//! `open` the caller reads and writes; of what arrives only heads are looked at.
//!
//! Invariants. 1. No read or write waits longer than `PATIENCE`: a silent bus is an error, not a hang.

use crate::frames::{Frames, Head, length};
use crate::message::{ERROR, RETURN, driver_call};
use crate::sys;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How long a bus may be silent.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How much is read at once.
pub const CHUNK: usize = 256 * 1024;

/// A connected client.
pub struct Connection {
    pub stream: UnixStream,
    /// Its unique name.
    pub name: String,
    frames: Frames,
}

/// The path in `unix:path=P,…`, the one form of address that there is here.
pub fn path_of(address: &str) -> &str {
    let path = address.strip_prefix("unix:path=").unwrap_or(address);
    path.split_once(',').map_or(path, |(path, _)| path)
}

/// An error in words.
pub fn failed(text: impl Into<String>) -> io::Error {
    io::Error::other(text.into())
}

impl Connection {
    /// Connect, authenticate, say Hello and send `requests`; returns when all are answered.
    pub fn open(address: &str, requests: &[Vec<u8>]) -> io::Result<Self> {
        let mut stream = UnixStream::connect(path_of(address))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let identity: String = sys::user()
            .to_string()
            .bytes()
            .map(|digit| format!("{digit:02x}"))
            .collect();
        let mut greeting =
            format!("\0AUTH EXTERNAL {identity}\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n").into_bytes();
        greeting.extend(driver_call(1, "Hello", &[]));
        requests
            .iter()
            .for_each(|request| greeting.extend_from_slice(request));
        stream.write_all(&greeting)?;
        let mut data = Vec::new();
        let mut at = None;
        while at.is_none() {
            more(&mut stream, &mut data)?;
            at = data
                .windows(2)
                .enumerate()
                .filter(|(_, pair)| pair == b"\r\n")
                .map(|(at, _)| at + 2)
                .nth(1);
        }
        data.drain(..at.unwrap_or(0));
        let name = take_name(&take_reply(&mut stream, &mut data)?)?;
        for _ in requests {
            take_reply(&mut stream, &mut data)?;
        }
        let mut frames = Frames::default();
        frames.feed(&data, |_| ());
        Ok(Self {
            stream,
            name,
            frames,
        })
    }

    /// The socket.
    pub fn number(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// Write all of it.
    pub fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.stream.write_all(data)
    }

    /// Read once; `found` gets the head of each message that is complete now.
    pub fn read(&mut self, buffer: &mut [u8], found: impl FnMut(Head)) -> io::Result<()> {
        let taken = self.stream.read(buffer)?;
        self.take(&buffer[..taken], found)
    }

    /// As `read`; descriptors that come along are closed.
    pub fn read_with_descriptors(
        &mut self,
        buffer: &mut [u8],
        found: impl FnMut(Head),
    ) -> io::Result<()> {
        let (taken, _closed) = sys::receive(self.number(), buffer)?;
        self.take(&buffer[..taken], found)
    }

    fn take(&mut self, data: &[u8], found: impl FnMut(Head)) -> io::Result<()> {
        if data.is_empty() {
            return Err(failed("the bus closed the connection"));
        }
        self.frames.feed(data, found);
        Ok(())
    }

    /// Read until at least one reply is there; returns how many. An error is an error here, too.
    pub fn replies(&mut self, buffer: &mut [u8]) -> io::Result<u64> {
        let (mut replies, mut errors) = (0, 0);
        while replies == 0 {
            self.read(buffer, |head| {
                replies += u64::from(head.kind() == RETURN);
                errors += u64::from(head.kind() == ERROR);
            })?;
            if errors > 0 {
                return Err(failed("the bus answered with an error"));
            }
        }
        Ok(replies)
    }
}

fn more(stream: &mut UnixStream, data: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 4096];
    match stream.read(&mut buffer)? {
        0 => Err(failed("the bus closed the connection")),
        taken => {
            data.extend_from_slice(&buffer[..taken]);
            Ok(())
        }
    }
}

/// The next method return, which is cut from `data`; other messages before it are dropped.
fn take_reply(stream: &mut UnixStream, data: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    loop {
        while data.len() < 16 || data.len() < length(data) {
            more(stream, data)?;
        }
        let message: Vec<u8> = data.drain(..length(data)).collect();
        match message[1] {
            RETURN => return Ok(message),
            ERROR => {
                return Err(failed(format!(
                    "the bus answered {}",
                    String::from_utf8_lossy(&message)
                )));
            }
            _ => (),
        }
    }
}

/// The one string in the answer to Hello.
fn take_name(reply: &[u8]) -> io::Result<String> {
    let text = reply.rsplit(|byte| *byte == 0).nth(1).unwrap_or_default();
    match text.iter().position(|byte| *byte == b':') {
        Some(at) => Ok(String::from_utf8_lossy(&text[at..]).into_owned()),
        None => Err(failed("the answer to Hello has no name")),
    }
}
