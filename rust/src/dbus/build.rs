//! Headers and bodies that the bus writes itself.
//!
//! Theory. The bus's own messages are few and small: answers to calls, errors, signals about names. Their
//! fields lie in the orders in which the reference writes its answers, and its broadcasts.
//!
//! Invariants. 1. `parse(build(…))` gives back what was built, if that was valid.
//!
//! Not here: checks of what is written; bodies of more than one basic value.

use super::fields::{
    DESTINATION, ERROR_NAME, INTERFACE, MEMBER, PATH, REPLY_SERIAL, SENDER, SIGNATURE, TYPES, UNIX_FDS,
};
use super::{Endian, SIGNAL, padding};

/// Bytes of the bus's own error texts: room for valid names, not for whatever a caller calls a name.
pub const ERROR_TEXT_MAX: usize = 1024;
const ANSWER_ORDER: [u8; 9] =
    [PATH, INTERFACE, MEMBER, DESTINATION, ERROR_NAME, REPLY_SERIAL, SIGNATURE, UNIX_FDS, SENDER];
const BROADCAST_ORDER: [u8; 6] = [PATH, INTERFACE, MEMBER, SENDER, SIGNATURE, UNIX_FDS];

/// What a header says; fields that are None, 0 or empty are left out.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The byte order.
    pub endian: Endian,
    /// The type.
    pub kind: u8,
    /// The flags.
    pub flags: u8,
    /// The number; 0 is none.
    pub serial: u32,
    /// Bytes of the body that follows.
    pub body_length: u32,
    /// PATH.
    pub path: Option<&'a str>,
    /// INTERFACE.
    pub interface: Option<&'a str>,
    /// MEMBER.
    pub member: Option<&'a str>,
    /// ERROR_NAME.
    pub error_name: Option<&'a str>,
    /// REPLY_SERIAL.
    pub reply_serial: u32,
    /// DESTINATION.
    pub destination: Option<&'a str>,
    /// SENDER.
    pub sender: Option<&'a str>,
    /// SIGNATURE.
    pub signature: &'a str,
    /// UNIX_FDS.
    pub unix_fds: u32,
}

impl Default for Outgoing<'_> {
    fn default() -> Self {
        Self {
            endian: Endian::Little,
            kind: 0,
            flags: 0,
            serial: 0,
            body_length: 0,
            path: None,
            interface: None,
            member: None,
            error_name: None,
            reply_serial: 0,
            destination: None,
            sender: None,
            signature: "",
            unix_fds: 0,
        }
    }
}

/// A header with its padding. Nothing is checked.
pub fn build(given: &Outgoing<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(192);
    append(given, &mut out);
    out
}

/// The same, behind what is there.
pub fn append(given: &Outgoing<'_>, out: &mut Vec<u8>) {
    let endian = given.endian;
    out.extend_from_slice(&[endian.byte(), given.kind, given.flags, 1]);
    out.extend_from_slice(&endian.put(given.body_length));
    out.extend_from_slice(&endian.put(given.serial));
    out.extend_from_slice(&[0; 4]);
    let start = out.len();
    let order: &[u8] =
        if given.kind == SIGNAL && given.destination.is_none() { &BROADCAST_ORDER } else { &ANSWER_ORDER };
    for &code in order {
        let text = match code {
            PATH => given.path,
            INTERFACE => given.interface,
            MEMBER => given.member,
            ERROR_NAME => given.error_name,
            DESTINATION => given.destination,
            SENDER => given.sender,
            SIGNATURE => Some(given.signature),
            REPLY_SERIAL => {
                put_number(code, given.reply_serial, endian, start, out);
                continue;
            }
            _ => {
                put_number(code, given.unix_fds, endian, start, out);
                continue;
            }
        };
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            continue;
        };
        pad(start, out);
        let [a, b, c, d] = endian.put(text.len() as u32);
        if code == SIGNATURE {
            out.extend_from_slice(&[code, 1, TYPES[usize::from(code)], 0, text.len() as u8]);
        } else {
            out.extend_from_slice(&[code, 1, TYPES[usize::from(code)], 0, a, b, c, d]);
        }
        out.extend_from_slice(text.as_bytes());
        out.push(0);
    }
    let length = out.len() - start;
    out[start - 4..start].copy_from_slice(&endian.put(length as u32));
    pad(start, out);
}

fn pad(from: usize, out: &mut Vec<u8>) {
    let n_bytes = padding(out.len() - from, 8);
    if n_bytes > 0 {
        out.extend_from_slice(&[0; 8][..n_bytes]);
    }
}

fn put_number(code: u8, number: u32, endian: Endian, from: usize, out: &mut Vec<u8>) {
    if number != 0 {
        pad(from, out);
        let [a, b, c, d] = endian.put(number);
        out.extend_from_slice(&[code, 1, TYPES[usize::from(code)], 0, a, b, c, d]);
    }
}

/// A message whose body is one string; length and signature of the body are those of that.
pub fn append_text(given: &Outgoing<'_>, text: &str, out: &mut Vec<u8>) {
    append(&Outgoing { body_length: text.len() as u32 + 5, signature: "s", ..*given }, out);
    put_text(text, out);
}

/// A string as it lies in a body where a number may begin, little-endian like all bodies of the bus.
pub fn put_text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

/// The body of one string.
pub fn text_body(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 5);
    put_text(text, &mut out);
    out
}

/// The body of one number.
pub fn number_body(number: u32) -> Vec<u8> {
    number.to_le_bytes().to_vec()
}

/// The body of an error of the bus; a text beyond `ERROR_TEXT_MAX` is cut.
pub fn error_body(text: &str) -> Vec<u8> {
    text_body(&text[..text.floor_char_boundary(ERROR_TEXT_MAX)])
}
