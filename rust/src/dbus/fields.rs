//! Header fields: the array behind the fixed part of a header, read and checked.
//!
//! Theory. Fields are looked at twice at most: first as everybody writes them, known ones in a row, with one
//! look at the start of each; and if there is anything else, by the book, which knows what to say of it.
//!
//! Invariants. 1. Both ways find the same. 2. Reading takes time in proportion to the header: unknown fields may
//! take `UNKNOWN_FIELDS_BUDGET` to check.
//!
//! Not here: which fields a message must have (`header`).

use super::arguments::behind_variant;
use super::body::BodyCheck;
use super::header::FIXED;
use super::signature::validate;
use super::{Endian, Malformed, clamped, names};

/// Header fields from code 10 on are checked and cut out; this is what the check may cost.
pub const UNKNOWN_FIELDS_BUDGET: usize = 1 << 16;
// a client library talks to itself under these; no message of the bus has them
const LOCAL_INTERFACE: &[u8] = b"org.freedesktop.DBus.Local";
const LOCAL_PATH: &[u8] = b"/org/freedesktop/DBus/Local";
const CUT_OFF: &str = "the header fields are cut off";

pub(crate) const PATH: u8 = 1;
pub(crate) const INTERFACE: u8 = 2;
pub(crate) const MEMBER: u8 = 3;
pub(crate) const ERROR_NAME: u8 = 4;
pub(crate) const REPLY_SERIAL: u8 = 5;
pub(crate) const DESTINATION: u8 = 6;
pub(crate) const SENDER: u8 = 7;
pub(crate) const SIGNATURE: u8 = 8;
pub(crate) const UNIX_FDS: u8 = 9;
/// The path of the sender's container: checked like a known field, and cut out like an unknown one.
const CONTAINER: u8 = 10;

/// The type of each known field, by its code.
pub(crate) const TYPES: [u8; 10] = *b"\0osssussgu";
pub(super) const NAMES: [&str; 10] = [
    "",
    "path",
    "interface",
    "member",
    "error_name",
    "reply_serial",
    "destination",
    "sender",
    "signature",
    "unix_fds",
];

/// Where a text lies in its message; at 0 there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    start: u32,
    length: u32,
}

impl Span {
    /// Whether there is a text.
    pub fn is_some(self) -> bool {
        self.start != 0
    }

    /// The text as bytes; none if there is none.
    #[inline]
    pub fn bytes(self, message: &[u8]) -> &[u8] {
        let start = self.start as usize;
        clamped(message, start, start + self.length as usize)
    }

    #[inline]
    pub(super) fn text(self, message: &[u8]) -> Option<&str> {
        if self.start == 0 { None } else { std::str::from_utf8(self.bytes(message)).ok() }
    }
}

/// The fields of one header, as far as they are read.
pub(super) struct Fields<'m> {
    endian: Endian,
    /// The whole header with its padding; every position counts from its start.
    header: &'m [u8],
    /// Where the array of fields ends.
    end: usize,
    /// A bit for each code.
    pub(super) found: u16,
    pub(super) spans: [Span; 10],
    pub(super) numbers: [u32; 10],
    pub(super) has_unknown: bool,
    has_container: bool,
}

/// What the variant of a known field starts with, code and type, by its code; at others nothing starts so.
const STARTS: [u32; 16] = {
    let mut starts = [0; 16];
    let mut code = 1;
    while code < TYPES.len() {
        starts[code] = code as u32 | 1 << 8 | (TYPES[code] as u32) << 16;
        code += 1;
    }
    starts
};

impl<'m> Fields<'m> {
    /// All that are in a header, which they fill up to `end`, but for its padding.
    pub(super) fn read(header: &'m [u8], endian: Endian, end: usize) -> Result<Self, Malformed> {
        let mut fields = Fields {
            endian,
            header,
            end,
            found: 0,
            spans: [Span::default(); 10],
            numbers: [0; 10],
            has_unknown: false,
            has_container: false,
        };
        let is_read = match endian {
            Endian::Little => fields.read_usual::<false>(),
            Endian::Big => fields.read_usual::<true>(),
        };
        if is_read.is_none() {
            fields.found = 0;
            fields.read_all()?;
        }
        Ok(fields)
    }

    /// Known fields that are as they should be; None, and nothing but `found` is to be undone, if there is anything else.
    #[inline]
    fn read_usual<const BIG: bool>(&mut self) -> Option<()> {
        let mut at = FIXED;
        while at < self.end {
            // code and type, and the number or the length of the text
            let start: [u8; 8] = *self.header.get(at..)?.first_chunk()?;
            let word = u64::from_le_bytes(start);
            let code = start[0];
            let bit = 1_u16.checked_shl(u32::from(code))?;
            if *STARTS.get(usize::from(code))? != word as u32 || self.found & bit != 0 {
                return None;
            }
            self.found |= bit;
            let number = (word >> 32) as u32;
            let number = if BIG { number.swap_bytes() } else { number };
            let (first, stop) = match code {
                REPLY_SERIAL | UNIX_FDS => {
                    if code == REPLY_SERIAL && number == 0 {
                        return None;
                    }
                    self.numbers[code as usize] = number;
                    at += 8;
                    if at > self.end {
                        return None;
                    }
                    continue;
                }
                SIGNATURE => (at + 5, at + 5 + usize::from(start[4])),
                _ => (at + 8, (at + 8).saturating_add(number as usize)),
            };
            let text = self.header.get(first..stop)?;
            // the NUL, and zeros up to the next multiple of eight
            let last = stop & !7;
            let behind = u64::from_le_bytes(*self.header.get(last..)?.first_chunk()?);
            if behind >> (8 * (stop & 7)) != 0 {
                return None;
            }
            let is_good = match code {
                SIGNATURE => matches!(text, b"s" | b"ay") || (!text.contains(&0) && validate(text).is_ok()),
                _ => is_value(code, text),
            };
            if !is_good {
                return None;
            }
            self.spans[code as usize] = Span { start: first as u32, length: (stop - first) as u32 };
            at = last + 8;
            if at >= self.end && stop + 1 != self.end {
                return None;
            }
        }
        Some(())
    }

    fn read_all(&mut self) -> Result<(), Malformed> {
        let mut at = FIXED;
        while at < self.end {
            at = self.skip_padding(at)?;
            // a code and the rest of the start of a variant of one basic type
            let start = self.header.get(at..).ok_or_else(cut_off)?;
            let code = *start.first().ok_or_else(cut_off)?;
            if !(PATH..=UNIX_FDS).contains(&code) {
                at = self.unknown(code, at)?;
                continue;
            }
            let type_ = TYPES[code as usize];
            if start.first_chunk() != Some(&[code, 1, type_, 0]) || self.found & 1 << code != 0 {
                return Err(wrong_type(NAMES[code as usize]));
            }
            self.found |= 1 << code;
            at = match type_ {
                b'u' => self.number(code, at + 4)?,
                b'g' => self.signature(code, at + 4)?,
                _ => self.text(code, at + 4)?,
            };
        }
        if at != self.end || clamped(self.header, at, usize::MAX).iter().any(|byte| *byte != 0) {
            return Err(Malformed::new("the header fields end within a field, or their padding is not zero"));
        }
        Ok(())
    }

    #[inline]
    fn skip_padding(&self, at: usize) -> Result<usize, Malformed> {
        if at & 7 == 0 {
            return Ok(at);
        }
        let stop = (at | 7) + 1;
        match self.header.get(at..stop) {
            Some(zeros) if zeros.iter().all(|byte| *byte == 0) => Ok(stop),
            _ => Err(Malformed::new("padding between header fields is missing or not zero")),
        }
    }

    #[inline]
    fn text(&mut self, code: u8, at: usize) -> Result<usize, Malformed> {
        let length = self.endian.u32_at(self.header, at).ok_or_else(cut_off)?;
        let start = at + 4;
        let stop = start.saturating_add(length as usize);
        // a valid value has no NUL inside
        match self.header.get(start..=stop) {
            Some([text @ .., 0]) if is_value(code, text) => {
                self.spans[code as usize] = Span { start: start as u32, length };
                Ok(stop + 1)
            }
            Some([text @ .., 0]) if !text.contains(&0) => Err(no_value(code)),
            _ => Err(Malformed::new("a header field is cut off, or has a NUL inside or none behind")),
        }
    }

    #[inline]
    fn signature(&mut self, code: u8, at: usize) -> Result<usize, Malformed> {
        let length = *self.header.get(at).ok_or_else(cut_off)?;
        let start = at + 1;
        let stop = start + usize::from(length);
        match self.header.get(start..=stop) {
            Some([text @ .., 0]) if !text.contains(&0) => validate(text)?,
            _ => {
                return Err(Malformed::new("the signature is cut off, or has a NUL inside or none behind"));
            }
        }
        self.spans[code as usize] = Span { start: start as u32, length: u32::from(length) };
        Ok(stop + 1)
    }

    #[inline]
    fn number(&mut self, code: u8, at: usize) -> Result<usize, Malformed> {
        let number = self.endian.u32_at(self.header, at).ok_or_else(cut_off)?;
        if code == REPLY_SERIAL && number == 0 {
            return Err(no_value(code));
        }
        self.numbers[code as usize] = number;
        Ok(at + 4)
    }

    #[cold]
    fn unknown(&mut self, code: u8, at: usize) -> Result<usize, Malformed> {
        if code == 0 {
            return Err(Malformed::new("header field 0"));
        }
        if code == CONTAINER {
            if clamped(self.header, at + 1, at + 4) != b"\x01o\0" || self.has_container {
                return Err(wrong_type("10"));
            }
            self.has_container = true;
        }
        if !self.has_unknown {
            self.check_all()?;
            self.has_unknown = true;
        }
        behind_variant(self.header, at + 1, self.endian).ok_or_else(cut_off)
    }

    /// All fields as the array of variants they are: a number, the length of the array, its elements.
    fn check_all(&self) -> Result<(), Malformed> {
        let array = clamped(self.header, FIXED - 8, self.end);
        if BodyCheck::new("ua(yv)", self.endian, None)?.step(array, UNKNOWN_FIELDS_BUDGET)? {
            return Ok(());
        }
        Err(Malformed::new("the unknown header fields are too many to check"))
    }
}

#[inline]
fn is_value(code: u8, text: &[u8]) -> bool {
    match code {
        PATH => names::is_object_path(text) && text != LOCAL_PATH,
        INTERFACE => names::is_interface_name(text) && text != LOCAL_INTERFACE,
        MEMBER => names::is_member_name(text),
        ERROR_NAME => names::is_error_name(text),
        _ => names::is_bus_name(text),
    }
}

#[cold]
fn cut_off() -> Malformed {
    Malformed::new(CUT_OFF)
}

#[cold]
fn wrong_type(name: &str) -> Malformed {
    Malformed::new(format!("header field {name} is of a wrong type, or given twice"))
}

#[cold]
fn no_value(code: u8) -> Malformed {
    Malformed::new(format!("header field {} has no valid value", NAMES[code as usize]))
}
