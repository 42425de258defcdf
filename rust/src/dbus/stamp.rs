//! The header that is forwarded: the client's, with the bus's SENDER.
//!
//! Theory. A header is forwarded in its own byte order: the fields stay as they lie, apart from a SENDER of the
//! client's, which the bus's replaces (else that comes last), and unknown fields, which are cut out. The body
//! is never touched.
//!
//! Invariants. 1. What `parse` says of a stamped header is what it said before, apart from sender, length and
//! unknown fields. 2. If there is no room, `out` is as it was.
//!
//! Not here: headers that the bus writes itself (`build`).

use super::arguments::behind_variant;
use super::fields::{SENDER, TYPES};
use super::header::{FIXED, Header};
use super::{Endian, MAX_ARRAY, MAX_MESSAGE, clamped, padding};

/// A header with the bus's sender has so many bytes more than before and than that name, at most.
pub const MARGIN: usize = 16;

/// With the sender the message would be larger than the protocol allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

impl TooLarge {
    /// What Python says then.
    pub const TEXT: &str = "there is no room for the sender in a message of that size";
}

/// Appends the header to forward, with its padding, to `out`; `MARGIN` tells what room is enough.
pub fn stamp(message: &[u8], header: &Header, sender: &[u8], out: &mut Vec<u8>) -> Result<(), TooLarge> {
    let start = out.len();
    let has_sender = header.sender_span.is_some();
    out.reserve(header.header_length + sender.len() + MARGIN);
    let mut fixed = [0; FIXED];
    if let Some(first) = message.first_chunk::<FIXED>() {
        fixed = *first;
    }
    out.extend_from_slice(&fixed);
    let fields = clamped(message, FIXED, FIXED + header.fields_length as usize);
    let fields_at = out.len();
    if header.has_unknown_fields || has_sender {
        put_known(fields, header.endian, sender, out);
    } else {
        out.extend_from_slice(fields);
    }
    if !has_sender {
        pad(out, fields_at);
        put_sender(sender, header.endian, out);
    }
    let length = (out.len() - fields_at) as u64;
    let total = FIXED as u64 + length.next_multiple_of(8) + u64::from(header.body_length);
    if length > u64::from(MAX_ARRAY) || total > MAX_MESSAGE {
        out.truncate(start);
        return Err(TooLarge);
    }
    if let Some(place) = out.get_mut(fields_at - 4..fields_at) {
        place.copy_from_slice(&header.endian.put(length as u32));
    }
    pad(out, fields_at);
    Ok(())
}

#[inline]
fn pad(out: &mut Vec<u8>, from: usize) {
    let n_bytes = padding(out.len() - from, 8);
    // of fixed sizes, which are no calls
    if n_bytes & 4 != 0 {
        out.extend_from_slice(&[0; 4]);
    }
    if n_bytes & 2 != 0 {
        out.extend_from_slice(&[0; 2]);
    }
    if n_bytes & 1 != 0 {
        out.push(0);
    }
}

#[inline]
fn put_sender(sender: &[u8], endian: Endian, out: &mut Vec<u8>) {
    let [a, b, c, d] = endian.put(sender.len() as u32);
    out.extend_from_slice(&[SENDER, 1, b's', 0, a, b, c, d]);
    out.extend_from_slice(sender);
    out.push(0);
}

/// The known fields as they lie, with the bus's sender in the place of the client's.
#[cold]
fn put_known(fields: &[u8], endian: Endian, sender: &[u8], out: &mut Vec<u8>) {
    let (from, mut at) = (out.len(), 0);
    while at < fields.len() {
        let start = at + padding(at, 8);
        let Some(stop) = behind_variant(fields, start + 1, endian) else {
            return;
        };
        at = stop;
        let field = clamped(fields, start, stop);
        match field.first() {
            Some(&SENDER) => {
                pad(out, from);
                put_sender(sender, endian, out);
            }
            Some(&code) if code != 0 && usize::from(code) < TYPES.len() => {
                pad(out, from);
                out.extend_from_slice(field);
            }
            _ => {}
        }
    }
}
