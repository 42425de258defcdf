//! D-Bus signatures: whether one is valid, and what a check of a body makes of it.
//!
//! Theory. One reading of a signature, from left to right, finds everything that is wrong with it. Whoever
//! reads may want the *operations* on the way: one per value, with structs flattened into an alignment
//! followed by their fields, so that only arrays and variants need a frame of a stack. An array of values of
//! one fixed size is one operation. The operations of an array's element follow it, up to an `End`.
//!
//! Invariants. 1. No type nests deeper than 32 arrays and 32 structs; a dict entry counts as a struct.
//! 2. A signature of n bytes gives at most 2n + 1 operations.
//!
//! Not here: values (`body`); the nesting that variants add.

use super::Malformed;

/// Bytes of a signature.
pub const MAX_SIGNATURE: usize = 255;
/// Of arrays, and again of structs, within one signature.
pub const MAX_NESTING: u32 = 32;

/// What a check does with one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    End,
    Fixed,
    Align,
    Text,
    Array,
    Variant,
    Bool,
    Fd,
    Path,
    Signature,
    FixedArray,
    Bools,
    Fds,
}

/// One operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Op {
    pub kind: Kind,
    /// The alignment of the value, less one.
    pub mask: u8,
    /// The size of a fixed value; of an array, the alignment of its elements, less one.
    pub size: u8,
    /// How many containers of this signature the value is in.
    pub depth: u8,
    /// Of an array: the operation behind those of its element.
    pub behind: u32,
}

/// Who reads a signature, and may want its operations.
trait Reader {
    fn push(&mut self, kind: Kind, mask: u8, size: u8, depth: u32) -> usize;
    fn close(&mut self, array: usize);
}

/// Wants none.
struct Nobody;

impl Reader for Nobody {
    fn push(&mut self, _: Kind, _: u8, _: u8, _: u32) -> usize {
        0
    }

    fn close(&mut self, _: usize) {}
}

impl Reader for Vec<Op> {
    fn push(&mut self, kind: Kind, mask: u8, size: u8, depth: u32) -> usize {
        let at = self.len();
        Vec::push(self, Op { kind, mask, size, depth: depth as u8, behind: 0 });
        at
    }

    fn close(&mut self, array: usize) {
        let behind = self.len() as u32;
        if let Some(op) = self.get_mut(array) {
            op.behind = behind;
        }
    }
}

/// The alignment of values of a type, by its first byte; 1 for what is none.
#[inline]
pub fn alignment(code: u8) -> usize {
    match code {
        b'n' | b'q' => 2,
        b'b' | b'i' | b'u' | b'h' | b's' | b'o' | b'a' => 4,
        b'x' | b't' | b'd' | b'(' | b'{' => 8,
        _ => 1,
    }
}

/// The size of every value of a type, by its first byte; 0 if they differ.
#[inline]
pub fn fixed_size(code: u8) -> usize {
    match code {
        b'y' => 1,
        b'n' | b'q' => 2,
        b'b' | b'i' | b'u' | b'h' => 4,
        b'x' | b't' | b'd' => 8,
        _ => 0,
    }
}

fn is_basic(code: u8) -> bool {
    matches!(code, b'y' | b'b' | b'n' | b'q' | b'i' | b'u' | b'x' | b't' | b'd' | b'h' | b's' | b'o' | b'g')
}

/// Whether these bytes are a signature.
pub fn validate(signature: &[u8]) -> Result<(), Malformed> {
    read(signature, &mut Nobody).map(|_| ())
}

/// Whether these bytes are a signature of exactly one complete type.
pub fn validate_single(signature: &[u8]) -> Result<(), Malformed> {
    must_be_single(signature, read(signature, &mut Nobody)?)
}

/// Appends the operations of a signature, with an `End` behind.
pub(crate) fn compile(signature: &[u8], program: &mut Vec<Op>) -> Result<(), Malformed> {
    read(signature, program)?;
    Reader::push(program, Kind::End, 0, 0, 0);
    Ok(())
}

/// The same for exactly one complete type.
pub(crate) fn compile_single(signature: &[u8], program: &mut Vec<Op>) -> Result<(), Malformed> {
    must_be_single(signature, read(signature, program)?)?;
    Reader::push(program, Kind::End, 0, 0, 0);
    Ok(())
}

/// The position behind the complete type that starts at `at` of a valid signature.
pub fn behind_type(signature: &[u8], at: usize) -> Option<usize> {
    complete(signature, at, Place::default(), &mut Nobody).ok()
}

fn must_be_single(signature: &[u8], count: usize) -> Result<(), Malformed> {
    if count == 1 {
        return Ok(());
    }
    Err(Malformed::signature(format!("{} is not one complete type", quoted(signature))))
}

/// How many arrays, structs and containers of both kinds are around a type.
#[derive(Clone, Copy, Default)]
struct Place {
    arrays: u32,
    structs: u32,
    depth: u32,
}

/// How many complete types there are.
fn read(signature: &[u8], reader: &mut impl Reader) -> Result<usize, Malformed> {
    if signature.len() > MAX_SIGNATURE {
        let length = signature.len();
        return Err(Malformed::signature(format!(
            "signature of {length} bytes, {MAX_SIGNATURE} are allowed"
        )));
    }
    let (mut at, mut count) = (0, 0);
    while at < signature.len() {
        at = complete(signature, at, Place::default(), reader)?;
        count += 1;
    }
    Ok(count)
}

fn complete(text: &[u8], at: usize, place: Place, reader: &mut impl Reader) -> Result<usize, Malformed> {
    let code = text.get(at).copied().unwrap_or(0);
    let (kind, size) = match code {
        b'y' | b'n' | b'q' | b'i' | b'u' | b'x' | b't' | b'd' => (Kind::Fixed, fixed_size(code)),
        b's' => (Kind::Text, 0),
        b'o' => (Kind::Path, 0),
        b'g' => (Kind::Signature, 0),
        b'v' => (Kind::Variant, 0),
        b'b' => (Kind::Bool, 4),
        b'h' => (Kind::Fd, 4),
        b'a' => return array(text, at, place, reader),
        b'(' => return structure(text, at, place, reader),
        _ => {
            let text = quoted(text);
            return Err(Malformed::signature(format!("no type at position {at} of {text}")));
        }
    };
    reader.push(kind, alignment(code) as u8 - 1, size as u8, place.depth);
    Ok(at + 1)
}

fn array(text: &[u8], at: usize, place: Place, reader: &mut impl Reader) -> Result<usize, Malformed> {
    let inside = Place { arrays: place.arrays + 1, depth: place.depth + 1, ..place };
    if inside.arrays > MAX_NESTING {
        return Err(too_deep("arrays", text));
    }
    let element = text.get(at + 1).copied().unwrap_or(0);
    let mask = alignment(element) as u8 - 1;
    if fixed_size(element) > 0 {
        let kind = match element {
            b'b' => Kind::Bools,
            b'h' => Kind::Fds,
            _ => Kind::FixedArray,
        };
        reader.push(kind, 3, mask, place.depth);
        return Ok(at + 2);
    }
    let array = reader.push(Kind::Array, 3, mask, place.depth);
    let end = if element == b'{' {
        dict_entry(text, at + 1, inside, reader)?
    } else {
        complete(text, at + 1, inside, reader)?
    };
    reader.push(Kind::End, 0, 0, inside.depth);
    reader.close(array);
    Ok(end)
}

fn structure(text: &[u8], at: usize, place: Place, reader: &mut impl Reader) -> Result<usize, Malformed> {
    let (count, end) = until(b')', text, at, place, reader)?;
    if count == 0 {
        return Err(Malformed::signature(format!("an empty struct in {}", quoted(text))));
    }
    Ok(end)
}

fn dict_entry(text: &[u8], at: usize, place: Place, reader: &mut impl Reader) -> Result<usize, Malformed> {
    let (count, end) = until(b'}', text, at, place, reader)?;
    if count != 2 || !text.get(at + 1).is_some_and(|key| is_basic(*key)) {
        let text = quoted(text);
        return Err(Malformed::signature(format!("a dict entry of {text} is not a basic key and one value")));
    }
    Ok(end)
}

/// How many types there are up to the closing bracket, and the position behind that.
fn until(
    close: u8,
    text: &[u8],
    at: usize,
    place: Place,
    reader: &mut impl Reader,
) -> Result<(usize, usize), Malformed> {
    let inside = Place { structs: place.structs + 1, depth: place.depth + 1, ..place };
    if inside.structs > MAX_NESTING {
        return Err(too_deep("structs", text));
    }
    reader.push(Kind::Align, 7, 0, place.depth);
    let (mut at, mut count) = (at + 1, 0);
    while text.get(at) != Some(&close) {
        at = complete(text, at, inside, reader)?;
        count += 1;
    }
    Ok((count, at + 1))
}

#[cold]
fn too_deep(what: &str, text: &[u8]) -> Malformed {
    let text = quoted(text);
    Malformed::signature(format!("more than {MAX_NESTING} {what} within each other in {text}"))
}

/// The text as Python quotes it, each byte being one character.
#[cold]
fn quoted(text: &[u8]) -> String {
    let quote = if text.contains(&b'\'') && !text.contains(&b'"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for &byte in text {
        match byte {
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            _ if char::from(byte) == quote => {
                out.push('\\');
                out.push(quote);
            }
            0..0x20 | 0x7f..=0xa0 | 0xad => out.push_str(&format!("\\x{byte:02x}")),
            _ => out.push(char::from(byte)),
        }
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(signature: &str) -> String {
        validate(signature.as_bytes()).unwrap_err().0
    }

    #[test]
    fn every_type_is_valid() {
        for good in ["", "y", "ybnqiuxtdsogvh", "a{sv}", "(y(xs))aasa(ib)", "aa{s(ii)}", "a{y(a{sv}v)}"] {
            assert_eq!(validate(good.as_bytes()), Ok(()), "{good}");
        }
        let deep = |n: usize| "a".repeat(n) + &"(".repeat(n) + "y" + &")".repeat(n);
        assert!(validate(deep(32).as_bytes()).is_ok() && validate(&[b'y'; 255]).is_ok());
        assert!(validate(&[b'a'; 33]).is_err() && validate(&[b'('; 33]).is_err());
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(text_of("a"), "no type at position 1 of 'a'");
        assert_eq!(text_of("()"), "an empty struct in '()'");
        assert_eq!(text_of("a{s}"), "a dict entry of 'a{s}' is not a basic key and one value");
        assert_eq!(text_of("a{vs}"), "a dict entry of 'a{vs}' is not a basic key and one value");
        assert_eq!(text_of("{sv}"), "no type at position 0 of '{sv}'");
        assert_eq!(text_of("'"), "no type at position 0 of \"'\"");
        assert_eq!(text_of(&"y".repeat(256)), "signature of 256 bytes, 255 are allowed");
        assert_eq!(validate_single(b"yy").unwrap_err().0, "'yy' is not one complete type");
        assert_eq!(quoted(b"\0\n\\'\"\x7f\xad\xe9"), "'\\x00\\n\\\\\\'\"\\x7f\\xad\u{e9}'");
    }

    #[test]
    fn types_end_where_they_end() {
        for (signature, at, end) in [("sa{sv}u", 1, 6), ("(y(xs))", 0, 7), ("aasu", 0, 3)] {
            assert_eq!(behind_type(signature.as_bytes(), at), Some(end));
        }
        assert_eq!(behind_type(b"s", 1), None);
    }

    #[test]
    fn a_program_is_never_longer_than_twice_its_signature() {
        for signature in ["", "y", "as", "aasa{sv}", "a(ya(s))", &"as".repeat(127)] {
            let mut program = Vec::new();
            compile(signature.as_bytes(), &mut program).unwrap();
            assert!(program.len() <= 2 * signature.len() + 1);
        }
    }
}
