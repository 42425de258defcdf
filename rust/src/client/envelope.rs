//! The envelope of everyday messages: what is in front of a body.
//!
//! Theory. `bus1_services/call.py` explains it, and says what is wrong with one. Here one without capabilities is
//! written, and one that is right in every respect is read; anything else gives None, and Python looks at it.
//!
//! Not here: bodies, and whether names are names: who asks compares them with those that it knows.

use super::protocol::{u16_at, u32_at};

const MAGIC: u8 = 0xB1;
const VERSION: u8 = 1;
const SIZE: usize = 24;
const MAX_NAME: usize = 255;

/// A method is called.
pub const CALL: u8 = 1;
/// It gives values.
pub const RETURN: u8 = 2;

/// What an envelope without capabilities says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// CALL, RETURN, …
    pub kind: u8,
    /// D-Bus's flags.
    pub flags: u8,
    /// The byte order of the body.
    pub is_little: bool,
    /// The sender's number.
    pub serial: u32,
    /// Empty in a RETURN.
    pub interface: &'a [u8],
    /// Empty in a RETURN.
    pub member: &'a [u8],
    /// Of the body.
    pub signature: &'a [u8],
}

/// The envelope in front of a body of this length; None if a name is too long.
pub fn write(kind: u8, serial: u32, names: [&[u8]; 3], body_length: usize) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(SIZE + 64);
    out.extend([MAGIC, VERSION, kind, 0, b'l', 0, 0, 0]);
    out.extend(serial.to_le_bytes());
    out.extend(u32::try_from(body_length).ok()?.to_le_bytes());
    for name in names {
        let length = name.len();
        if length > MAX_NAME {
            return None;
        }
        out.extend((length as u16).to_le_bytes());
    }
    out.extend([0, 0]);
    for name in names {
        out.extend(name);
    }
    out.resize(out.len().next_multiple_of(8), 0);
    Some(out)
}

/// The envelope of a whole message and its body; None if it has capabilities, or anything is not right.
pub fn read(message: &[u8]) -> Option<(Envelope<'_>, &[u8])> {
    let [MAGIC, VERSION, kind, flags, endian, 0, 0, 0, ..] = *message else {
        return None;
    };
    let is_little = match endian {
        b'l' => true,
        b'B' => false,
        _ => return None,
    };
    let serial = u32_at(message, 8)?;
    let body_length = u32_at(message, 12)? as usize;
    let lengths = [u16_at(message, 16)?, u16_at(message, 18)?, u16_at(message, 20)?].map(usize::from);
    if u16_at(message, 22)? != 0 || lengths.iter().any(|length| *length > MAX_NAME) {
        return None;
    }
    let (interface, rest) = message.get(SIZE..)?.split_at_checked(lengths[0])?;
    let (member, rest) = rest.split_at_checked(lengths[1])?;
    let (signature, rest) = rest.split_at_checked(lengths[2])?;
    let end = SIZE + lengths.iter().sum::<usize>();
    let (padding, body) = rest.split_at_checked(end.next_multiple_of(8) - end)?;
    if body.len() != body_length || padding.iter().any(|byte| *byte != 0) {
        return None;
    }
    if signature.is_empty() != body.is_empty() {
        return None;
    }
    let envelope = Envelope { kind, flags, is_little, serial, interface, member, signature };
    Some((envelope, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let names: [&[u8]; 3] = [b"org.example.A", b"Echo", b"s"];
        let mut message = write(CALL, 7, names, 8).unwrap_or_default();
        let size = message.len();
        message.extend([3, 0, 0, 0, b'a', b'b', b'c', 0]);
        let (envelope, body) = read(&message).unwrap();
        assert_eq!((envelope.kind, envelope.serial, body.len()), (CALL, 7, 8));
        assert_eq!([envelope.interface, envelope.member, envelope.signature], names);
        for cut in 0..message.len() {
            assert!(read(&message[..cut]).is_none());
        }
        for at in [0, 1, 4, 5, 6, 12, 16, 22, size - 1] {
            let mut other = message.clone();
            other[at] ^= 0x80;
            assert!(read(&other).is_none(), "{at}");
        }
    }
}
