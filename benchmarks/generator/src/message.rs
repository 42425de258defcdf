//! The few D-Bus messages of the load, built before the clock runs.
//!
//! Theory. All are little-endian. The serial of a message is at `SERIAL`, and the number that a reply answers at
//! `REPLY_SERIAL`, because it is the reply's first field: both are patched in place while measuring.
//!
//! Not here: validation; the buses do that.

/// Where the serial of a message is.
pub const SERIAL: usize = 8;
/// Where a reply says what it answers.
pub const REPLY_SERIAL: usize = 20;
/// Types of messages.
pub const CALL: u8 = 1;
/// The type of a reply.
pub const RETURN: u8 = 2;
/// The type of an error.
pub const ERROR: u8 = 3;
/// The type of a signal.
pub const SIGNAL: u8 = 4;
/// The flag of a call that wants no reply.
pub const NO_REPLY: u8 = 1;
/// The interface, and the object, of all that is sent.
pub const INTERFACE: &str = "org.bus1.Benchmark";
/// The object.
pub const PATH: &str = "/org/bus1/Benchmark";
/// The string in calls and signals.
pub const TEXT: &str = "The quick brown fox jumps over the lazy dog.";
/// The bus itself.
pub const DRIVER: &str = "org.freedesktop.DBus";

/// What a message is made of; empty fields are left out.
#[derive(Clone, Copy, Default)]
pub struct Parts<'a> {
    pub kind: u8,
    pub flags: u8,
    pub serial: u32,
    pub answers: u32,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
    pub destination: &'a str,
    pub signature: &'a str,
    pub descriptors: u32,
    pub body: &'a [u8],
}

fn pad(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

fn number(out: &mut Vec<u8>, value: usize) {
    pad(out, 4);
    out.extend_from_slice(&(value as u32).to_le_bytes());
}

/// Append a string (or an object path).
pub fn string(out: &mut Vec<u8>, text: &str) {
    number(out, text.len());
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

fn field(out: &mut Vec<u8>, code: u8, kind: u8) {
    pad(out, 8);
    out.extend_from_slice(&[code, 1, kind, 0]);
}

fn text_field(out: &mut Vec<u8>, code: u8, kind: u8, text: &str) {
    if !text.is_empty() {
        field(out, code, kind);
        string(out, text);
    }
}

impl Parts<'_> {
    /// The whole message.
    pub fn build(&self) -> Vec<u8> {
        let mut out = vec![b'l', self.kind, self.flags, 1];
        number(&mut out, self.body.len());
        number(&mut out, self.serial as usize);
        number(&mut out, 0);
        if self.answers != 0 {
            field(&mut out, 5, b'u');
            number(&mut out, self.answers as usize);
        }
        text_field(&mut out, 1, b'o', self.path);
        text_field(&mut out, 2, b's', self.interface);
        text_field(&mut out, 3, b's', self.member);
        text_field(&mut out, 6, b's', self.destination);
        if !self.signature.is_empty() {
            field(&mut out, 8, b'g');
            out.push(self.signature.len() as u8);
            out.extend_from_slice(self.signature.as_bytes());
            out.push(0);
        }
        if self.descriptors != 0 {
            field(&mut out, 9, b'u');
            number(&mut out, self.descriptors as usize);
        }
        let fields = (out.len() - 16) as u32;
        out[12..16].copy_from_slice(&fields.to_le_bytes());
        pad(&mut out, 8);
        out.extend_from_slice(self.body);
        out
    }
}

/// A call of the bus itself, with strings as arguments.
pub fn driver_call(serial: u32, member: &str, arguments: &[&str]) -> Vec<u8> {
    let mut body = Vec::new();
    arguments.iter().for_each(|text| string(&mut body, text));
    ask_driver(serial, member, &"s".repeat(arguments.len()), &body)
}

/// A call of the bus itself that asks for a name.
pub fn request_name(serial: u32, name: &str) -> Vec<u8> {
    let mut body = Vec::new();
    string(&mut body, name);
    number(&mut body, 0);
    ask_driver(serial, "RequestName", "su", &body)
}

fn ask_driver(serial: u32, member: &str, signature: &str, body: &[u8]) -> Vec<u8> {
    Parts {
        kind: CALL,
        serial,
        path: "/org/freedesktop/DBus",
        interface: DRIVER,
        member,
        destination: DRIVER,
        signature,
        body,
        ..Parts::default()
    }
    .build()
}

/// A call of the benchmark's object.
pub fn call(destination: &str, flags: u8, signature: &str, body: &[u8], descriptors: u32) -> Vec<u8> {
    let parts = Parts {
        kind: CALL,
        flags,
        serial: 2,
        path: PATH,
        interface: INTERFACE,
        member: "Echo",
        ..Parts::default()
    };
    Parts { destination, signature, body, descriptors, ..parts }.build()
}

/// A reply to be patched, with one string.
pub fn reply(destination: &str) -> Vec<u8> {
    let mut body = Vec::new();
    string(&mut body, "The quick brown fox.");
    Parts {
        kind: RETURN,
        serial: 1,
        answers: 1,
        destination,
        signature: "s",
        body: &body,
        ..Parts::default()
    }
    .build()
}

/// A signal with `arguments` equal strings, or with that many bytes if `bytes`.
pub fn signal(arguments: usize, bytes: usize) -> Vec<u8> {
    let mut body = Vec::new();
    let signature = if bytes > 0 { "ay".to_owned() } else { "s".repeat(arguments) };
    if bytes > 0 {
        body = array(bytes);
    } else {
        (0..arguments).for_each(|_| string(&mut body, TEXT));
    }
    let parts = Parts {
        kind: SIGNAL,
        serial: 2,
        path: PATH,
        interface: INTERFACE,
        member: "Tick",
        ..Parts::default()
    };
    Parts { signature: &signature, body: &body, ..parts }.build()
}

/// The body of an array of `size` bytes.
pub fn array(size: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(size + 4);
    number(&mut body, size);
    body.resize(size + 4, b'x');
    body
}

/// Write a serial into a built message.
pub fn patch(message: &mut [u8], at: usize, serial: u32) {
    message[at..at + 4].copy_from_slice(&serial.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::{Frames, length};

    #[test]
    fn a_built_message_is_as_long_as_its_header_says() {
        for message in [
            call(":1.5", 0, "s", b"\0\0\0\0\0", 1),
            reply(":1.15"),
            signal(4, 0),
            signal(0, 33),
            request_name(2, "a.b"),
        ] {
            assert_eq!(length(&message), message.len());
        }
    }

    #[test]
    fn both_serials_lie_where_they_are_patched() {
        let mut message =
            Parts { kind: RETURN, serial: 0x0102_0304, answers: 0x0506_0708, ..Parts::default() }.build();
        assert_eq!(message[SERIAL..SERIAL + 4], [4, 3, 2, 1]);
        assert_eq!(message[REPLY_SERIAL..REPLY_SERIAL + 4], [8, 7, 6, 5]);
        patch(&mut message, SERIAL, 9);
        let mut serials = Vec::new();
        Frames::default().feed(&message, |head| serials.push(head.serial()));
        assert_eq!(serials, [9]);
    }
}
