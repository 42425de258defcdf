//! Writing what waits for one connection.
//!
//! Theory. A queue is Core's; a message leaves it when its last byte has entered the socket. Small messages are written as
//! one contiguous piece, which costs the kernel least; large ones from where they lie. What needs Python (notifications,
//! what native peers are to be told) stops the writing: Python's own way of writing goes on from there.
//!
//! Invariants. 1. One call writes about `FLUSH_BYTES` at most. 2. `offset` counts bytes of the front of the queue.
//!
//! Not here: when to write (`dbus`).

use std::io;
use std::os::fd::RawFd;

use super::connection::Connection;
use crate::core::{Core, MessageType};
use crate::sys;

/// What one connection is written per turn, about.
const FLUSH_BYTES: usize = 256 << 10;
/// Messages up to this size are copied together.
const SMALL: usize = 8 << 10;
const CONTIGUOUS_MAX: usize = 64 << 10;
const BUFFERS_MAX: usize = 256;

/// How the writing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Nothing is left.
    Done,
    /// The socket takes no more.
    Blocked,
    /// Its part of the turn is used up.
    More,
    /// Python has to write what comes next.
    Python,
}

/// Writes what it can; `scratch` is room for small messages.
pub fn flush(c: &mut Connection, core: &mut Core, now: f64, scratch: &mut Vec<u8>) -> Flushed {
    core.unwake(c.peer);
    if c.output.is_held {
        return Flushed::Python;
    }
    if let Some(waiting) = core.waiting(c.peer) {
        c.output.note_peak(waiting);
    }
    let mut left = FLUSH_BYTES;
    loop {
        let (result, size, stops) = write_front(c, core, scratch);
        if size == 0 {
            return if stops { Flushed::Python } else { Flushed::Done };
        }
        let written = match result {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Flushed::Blocked,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // whatever it is, Python meets it again, and decides
            Err(_) => return Flushed::Python,
        };
        c.pace.moved = now;
        if let Err(()) = dequeue(c, core, written) {
            return Flushed::Python;
        }
        if written < size {
            return Flushed::Blocked;
        }
        left = left.saturating_sub(written);
        if left == 0 {
            return Flushed::More;
        }
    }
}

/// One call of the kernel for the messages at the front; its result, their size, and whether Python's come next.
fn write_front(c: &Connection, core: &Core, scratch: &mut Vec<u8>) -> (io::Result<usize>, usize, bool) {
    let mut skip = c.output.offset;
    let mut stops = false;
    let mut parts: Vec<&[u8]> = Vec::new();
    let mut fds: &[RawFd] = &[];
    scratch.clear();
    let mut n_bytes = 0;
    for entry in core.look_ahead(c.peer) {
        if entry.kind != MessageType::Data || entry.n_handles != 0 || entry.note != 0 {
            stops = true;
            break;
        }
        if !entry.fds.is_empty() {
            // one with descriptors goes alone, so that they arrive with its first byte
            if n_bytes > 0 {
                break;
            }
            if c.output.offset == 0 {
                fds = entry.fds;
            }
        }
        let is_small = entry.n_bytes <= SMALL;
        if n_bytes > 0 {
            let fits = if is_small { scratch.len() + entry.n_bytes <= CONTIGUOUS_MAX } else { true };
            // contiguous pieces and separate ones do not mix: the former are written first
            if !fits || is_small == scratch.is_empty() || n_bytes >= FLUSH_BYTES || parts.len() >= BUFFERS_MAX
            {
                break;
            }
        }
        for part in entry.parts {
            let written = skip.min(part.len());
            skip -= written;
            let part = &part[written..];
            if part.is_empty() {
                continue;
            }
            n_bytes += part.len();
            if is_small {
                scratch.extend_from_slice(part);
            } else {
                parts.push(part);
            }
        }
        if !entry.fds.is_empty() {
            break;
        }
    }
    if n_bytes == 0 {
        return (Ok(0), 0, stops);
    }
    let result =
        if scratch.is_empty() { sys::send(c.fd, &parts, fds) } else { sys::send(c.fd, &[scratch], fds) };
    (result, n_bytes, stops)
}

/// `n` bytes more are written: whole messages leave the queue.
pub(super) fn dequeue(c: &mut Connection, core: &mut Core, n: usize) -> Result<(), ()> {
    c.output.offset += n;
    loop {
        let Some(size) = core.look_ahead(c.peer).next().map(|entry| entry.n_bytes) else {
            return if c.output.offset == 0 { Ok(()) } else { Err(()) };
        };
        if c.output.offset < size {
            return Ok(());
        }
        c.output.offset -= size;
        core.take_front(c.peer).map_err(|_| ())?;
        if c.output.offset == 0 {
            return Ok(());
        }
    }
}
