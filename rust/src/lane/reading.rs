//! Reading the socket of a connection of the lane.
//!
//! Theory. A turn reads once, or a few times where that is what it takes, and carries out what is there. Buffers are lent: one
//! that nothing lies in serves the next client, and a large message has one of its own.
//!
//! Invariants. 1. What is read in a turn is bounded. 2. Who has left answers of the bus unread is not read.
//!
//! Not here: what becomes of the bytes (`serving`), the table of connections (`dbus`).

use std::collections::TryReserveError;
use std::io;

use super::Report;
use super::arrival;
use super::connection::{Connection, End};
use super::dbus::{DbusLane, IN};
use super::serving::{BYTES_PER_TURN, hand_over_all};
use super::world::Tables;
use crate::sys;

/// Bytes to ask a socket for.
pub const CHUNK: usize = 128 << 10;
/// So often one client is read in a turn, if little comes at a time: together about as much as one call may bring.
const READS_PER_TURN: usize = 32;
const SMALL_READ: usize = CHUNK / READS_PER_TURN;
/// The most to ask for within a large message.
const LARGE_CHUNK: usize = 1 << 20;
/// Answers of the bus that a connection may leave unread before it is not read any more.
const BUS_MARK: u64 = 16 << 20;

impl DbusLane {
    /// Read, and carry out what is there: once; or a few times as long as little comes with descriptors, with which the kernel
    /// ends what one call reads, or as large messages fill the buffers that were meant for them.
    pub(super) fn read(&mut self, slot: usize, tables: &mut Tables<'_>, now: f64, report: &mut Report) {
        let mut left = BYTES_PER_TURN;
        for _ in 0..READS_PER_TURN {
            let n_bytes = self.read_once(slot, tables, now, report);
            left = left.saturating_sub(n_bytes.unwrap_or(left));
            let goes_on = |c: &Connection| c.input.is_ours && c.input.pending() == 0 && !c.input.is_busy;
            if left == 0 || report.stops || !self.parties.get(slot).is_some_and(goes_on) {
                break;
            }
        }
        self.tidy(slot);
    }

    /// The same with one call of the kernel; how much it has brought if another may bring more.
    fn read_once(
        &mut self,
        slot: usize,
        tables: &mut Tables<'_>,
        now: f64,
        report: &mut Report,
    ) -> Option<usize> {
        let bus = tables.core.queued(self.parties.bus.peer, self.peer(slot)).map_or(0, |usage| usage.bytes);
        let c = self.parties.get_mut(slot)?;
        if bus > BUS_MARK {
            hand_over_all(c, End::Open, report);
            return None;
        }
        let room = if c.input.pending() == 0 {
            room_for_first(c, &mut self.spare)
        } else {
            room_for_more(c, &mut self.spare)
        };
        let Ok(mut most) = room else {
            c.input.give_up();
            report.hand_over(c.fd, IN);
            return None;
        };
        if c.entry.is_some() {
            most = most.min(arrival::CHUNK);
        }
        let mut brought = None;
        let mut fds = Vec::new();
        match sys::receive(c.fd, &mut c.input.buffer, most, &mut fds) {
            Ok(received) => {
                let is_full = c.input.usual() > 0 && received.n_bytes == most;
                let has_more = is_full || !fds.is_empty() && received.n_bytes <= SMALL_READ;
                brought = has_more.then_some(received.n_bytes);
                c.input.bring(fds);
                if received.is_truncated {
                    hand_over_all(c, End::Truncated, report);
                } else if received.n_bytes == 0 {
                    self.end(slot, End::Ended, tables, now, report);
                } else {
                    c.input.n_handed = 0;
                    self.serve(slot, tables, now, report);
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => self.end(slot, end_after(&error), tables, now, report),
        }
        brought
    }

    /// A buffer that nothing lies in serves the next client.
    pub(super) fn tidy(&mut self, slot: usize) {
        let Some(c) = self.parties.get_mut(slot) else {
            return;
        };
        if c.input.pending() == 0 {
            c.input.tidy();
            let mut buffer = std::mem::take(&mut c.input.buffer);
            c.input.start = 0;
            if buffer.capacity() > self.spare.capacity() && buffer.capacity() <= 2 * CHUNK {
                buffer.clear();
                self.spare = buffer;
            }
        } else if c.input.pending() * 2 < c.input.buffer.capacity() && c.input.lacks() <= CHUNK {
            // little is left: it lies in a buffer of its own size, and the large one serves others, or nobody
            let rest = c.input.buffer[c.input.start..].to_vec();
            let large = std::mem::replace(&mut c.input.buffer, rest);
            c.input.start = 0;
            if self.spare.capacity() == 0 {
                self.spare = large;
            }
        }
    }

    pub(super) fn peer(&self, slot: usize) -> u64 {
        self.parties.get(slot).map_or(0, |c| c.peer)
    }
}

/// What a failure to read says of the socket.
fn end_after(error: &io::Error) -> End {
    const SHORTAGE: [i32; 5] = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::ETOOMANYREFS];
    if error.raw_os_error().is_some_and(|code| SHORTAGE.contains(&code)) { End::Short } else { End::Failed }
}

/// Nothing lies in the buffer: a message like a large last one gets one of its own. How much to ask for.
fn room_for_first(c: &mut Connection, spare: &mut Vec<u8>) -> Result<usize, TryReserveError> {
    c.input.start = 0;
    c.input.buffer.clear();
    if c.input.usual() > 0 {
        // a body of 1 MiB has a header, too
        let most = c.input.usual().min(LARGE_CHUNK + CHUNK);
        c.input.buffer = Vec::new();
        c.input.buffer.try_reserve_exact(most)?;
        return Ok(most);
    }
    if c.input.buffer.capacity() < CHUNK {
        c.input.buffer = std::mem::take(spare);
        c.input.buffer.clear();
    }
    c.input.buffer.try_reserve(CHUNK)?;
    Ok(CHUNK)
}

/// The first message lies in the buffer, in part. How much to ask for.
fn room_for_more(c: &mut Connection, spare: &mut Vec<u8>) -> Result<usize, TryReserveError> {
    if c.input.start > 0 {
        c.input.buffer.drain(..c.input.start);
        c.input.start = 0;
    }
    let missing = c.input.lacks();
    let is_large = missing > CHUNK || (c.input.usual() > 0 && missing > 0);
    if !is_large && c.input.pending() <= CHUNK && c.input.buffer.capacity() < spare.capacity() {
        spare.clear();
        spare.extend_from_slice(&c.input.buffer);
        c.input.buffer = std::mem::take(spare);
    }
    let most = if is_large { missing.min(LARGE_CHUNK) } else { CHUNK };
    c.input.buffer.try_reserve(most)?;
    Ok(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_lacks_does_not_end_a_client() {
        let end = |code| end_after(&io::Error::from_raw_os_error(code));
        assert_eq!([libc::ENOBUFS, libc::ENOMEM].map(end), [End::Short; 2]);
        assert_eq!([libc::ECONNRESET, libc::EPIPE].map(end), [End::Failed; 2]);
    }
}
