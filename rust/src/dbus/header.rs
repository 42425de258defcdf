//! Headers: what a message says of itself, found and checked without a copy.
//!
//! Theory. A header is 16 fixed bytes (byte order, type, flags, version, length of the body, serial, length
//! of the fields) and an array of fields, padded to a multiple of 8; the body follows. A `Header` holds the
//! numbers, and for each text where it lies in the message.
//!
//! Invariants. 1. A `Header` holds no position outside of the message that it was made of; asked about another
//! one, it gives texts that mean nothing, or none.
//!
//! Not here: the array of fields (`fields`), whether a body fits its signature (`body`), what is forwarded (`stamp`).

use super::fields::{DESTINATION, SENDER, SIGNATURE, UNIX_FDS};
use super::fields::{ERROR_NAME, Fields, INTERFACE, MEMBER, NAMES, PATH, REPLY_SERIAL, Span};
use super::{CALL, ERROR, Endian, MAX_ARRAY, MAX_MESSAGE, Malformed, RETURN, SIGNAL};

/// Bytes of the part that every header has.
pub const FIXED: usize = 16;
const VERSION: u8 = 1;

/// A header that was found valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The byte order.
    pub endian: Endian,
    /// The type of the message.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Whether there are fields that the bus cuts out.
    pub has_unknown_fields: bool,
    /// The sender's number for it.
    pub serial: u32,
    /// Bytes of the body.
    pub body_length: u32,
    /// Bytes of the array of fields.
    pub fields_length: u32,
    /// Bytes in front of the body, padding included.
    pub header_length: usize,
    /// The number of the call that is answered; 0 for none.
    pub reply_serial: u32,
    /// How many descriptors come along.
    pub unix_fds: u32,
    /// PATH.
    pub path_span: Span,
    /// INTERFACE.
    pub interface_span: Span,
    /// MEMBER.
    pub member_span: Span,
    /// ERROR_NAME.
    pub error_name_span: Span,
    /// DESTINATION.
    pub destination_span: Span,
    /// SENDER.
    pub sender_span: Span,
    /// SIGNATURE.
    pub signature_span: Span,
}

impl Header {
    /// The object.
    pub fn path<'m>(&self, message: &'m [u8]) -> Option<&'m str> {
        self.path_span.text(message)
    }

    /// The interface.
    pub fn interface<'m>(&self, message: &'m [u8]) -> Option<&'m str> {
        self.interface_span.text(message)
    }

    /// The method or signal.
    pub fn member<'m>(&self, message: &'m [u8]) -> Option<&'m str> {
        self.member_span.text(message)
    }

    /// The name of an error.
    pub fn error_name<'m>(&self, message: &'m [u8]) -> Option<&'m str> {
        self.error_name_span.text(message)
    }

    /// The bus name that it is sent to.
    pub fn destination<'m>(&self, message: &'m [u8]) -> Option<&'m str> {
        self.destination_span.text(message)
    }

    /// The sender, by its own words.
    pub fn sender<'m>(&self, message: &'m [u8]) -> Option<&'m str> {
        self.sender_span.text(message)
    }

    /// The signature of the body; empty if there is none.
    pub fn signature<'m>(&self, message: &'m [u8]) -> &'m str {
        self.signature_span.text(message).unwrap_or_default()
    }
}

/// Length of the message that starts here; None for fewer than 16 bytes.
#[inline]
pub fn frame_length(data: &[u8]) -> Result<Option<usize>, Malformed> {
    let Some(fixed) = data.first_chunk::<FIXED>() else {
        return Ok(None);
    };
    let Some(endian) = Endian::of(fixed[0]) else {
        return Err(Malformed::new(format!("byte order {:#04x}", fixed[0])));
    };
    if fixed[3] != VERSION {
        return Err(Malformed::new(format!("protocol version {}", fixed[3])));
    }
    let body_length = endian.u32_at(fixed, 4).unwrap_or(0);
    let fields_length = endian.u32_at(fixed, 12).unwrap_or(0);
    let length = FIXED as u64 + u64::from(fields_length).next_multiple_of(8) + u64::from(body_length);
    if fields_length > MAX_ARRAY || length > MAX_MESSAGE {
        return Err(Malformed::new(format!(
            "a message of {length} bytes with {fields_length} bytes of fields"
        )));
    }
    Ok(Some(length as usize))
}

/// The header of a message, of which at least the header is there.
pub fn parse(message: &[u8]) -> Result<Header, Malformed> {
    // whether there is enough for one is asked there
    parse_frame(message, frame_length(message)?.unwrap_or(FIXED))
}

/// The same, of a message that has the length which `frame_length` gave.
pub fn parse_frame(message: &[u8], length: usize) -> Result<Header, Malformed> {
    if message.len() < FIXED {
        return Err(Malformed::new("the message ends within its header"));
    }
    let endian = Endian::of(message[0]).unwrap_or(Endian::Little);
    let number = |at| endian.u32_at(message, at).unwrap_or(0);
    let (body_length, serial, fields_length) = (number(4), number(8), number(12));
    let kind = message[1];
    let header_length = length.saturating_sub(body_length as usize);
    let Some(header) = message.get(..header_length).filter(|_| kind != 0 && serial != 0) else {
        return Err(Malformed::new("type 0, serial 0, or the message ends within its header"));
    };
    let fields = Fields::read(header, endian, FIXED + fields_length as usize)?;
    let required: &[u8] = match kind {
        CALL => &[PATH, MEMBER],
        RETURN => &[REPLY_SERIAL],
        ERROR => &[ERROR_NAME, REPLY_SERIAL],
        SIGNAL => &[PATH, INTERFACE, MEMBER],
        _ => &[],
    };
    for &code in required {
        if fields.found & 1 << code == 0 {
            return Err(missing(kind, code));
        }
    }
    let span = |code: u8| fields.spans[code as usize];
    Ok(Header {
        endian,
        kind,
        flags: message[2],
        has_unknown_fields: fields.has_unknown,
        serial,
        body_length,
        fields_length,
        header_length,
        reply_serial: fields.numbers[REPLY_SERIAL as usize],
        unix_fds: fields.numbers[UNIX_FDS as usize],
        path_span: span(PATH),
        interface_span: span(INTERFACE),
        member_span: span(MEMBER),
        error_name_span: span(ERROR_NAME),
        destination_span: span(DESTINATION),
        sender_span: span(SENDER),
        signature_span: span(SIGNATURE),
    })
}

#[cold]
fn missing(kind: u8, code: u8) -> Malformed {
    Malformed::new(format!("a message of type {kind} without {}", NAMES[code as usize]))
}
