//! The first arguments of a body, as match rules see them.
//!
//! Theory. A body that was found valid needs no check any more: from each value one can jump to the next.
//!
//! Invariants. 1. A body that is not valid gives wrong arguments or fewer, and nothing worse.
//!
//! Not here: the check (`body`), what rules do with arguments.

use super::signature::{alignment, behind_type, fixed_size, validate_single};
use super::{Endian, MAX_DEPTH, clamped, padding};

/// How many arguments match rules can look at.
pub const LIMIT: usize = 64;

/// An argument: rules compare texts and paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument<'m> {
    /// A string.
    Text(&'m str),
    /// An object path.
    Path(&'m str),
    /// Anything else.
    Other,
}

/// Appends the first arguments of a valid body to `out`.
pub fn arguments<'m>(
    signature: impl AsRef<[u8]>,
    body: &'m [u8],
    endian: Endian,
    out: &mut Vec<Argument<'m>>,
) {
    arguments_up_to(LIMIT, signature.as_ref(), body, endian, out);
}

/// Appends the first `limit` arguments of a valid body to `out`.
pub fn arguments_up_to<'m>(
    limit: usize,
    signature: &[u8],
    body: &'m [u8],
    endian: Endian,
    out: &mut Vec<Argument<'m>>,
) {
    let (mut from, mut count) = (0, 0);
    // None: there is no text any more, or the body is not valid
    let mut position = Some(0);
    while from < signature.len() && count < limit {
        let Some(to) = behind_type(signature, from) else {
            return;
        };
        let type_ = clamped(signature, from, to);
        let argument = position.and_then(|at| {
            let start = at + padding(at, 4) + 4;
            position = behind(type_, body, at, endian, 0);
            let text = || std::str::from_utf8(body.get(start..position?.checked_sub(1)?)?).ok();
            match type_ {
                b"s" => text().map(Argument::Text),
                b"o" => text().map(Argument::Path),
                _ => None,
            }
        });
        out.push(argument.unwrap_or(Argument::Other));
        (from, count) = (to, count + 1);
        if !clamped(signature, from, usize::MAX).iter().any(|code| matches!(code, b's' | b'o')) {
            position = None;
        }
    }
}

/// The position behind the variant at `at` of valid data.
pub(crate) fn behind_variant(data: &[u8], at: usize, endian: Endian) -> Option<usize> {
    behind(b"v", data, at, endian, 0)
}

/// The position behind a value of one complete type in valid data; `depth` structs are around it.
fn behind(type_: &[u8], data: &[u8], at: usize, endian: Endian, depth: u32) -> Option<usize> {
    // variants within each other, as deep as they like, need no stack this way
    let (mut type_, mut at) = (type_, at);
    loop {
        let code = *type_.first()?;
        at += padding(at, alignment(code));
        match code {
            b's' | b'o' => {
                return at.checked_add(5)?.checked_add(endian.u32_at(data, at)? as usize);
            }
            b'g' => return Some(at + 2 + usize::from(*data.get(at)?)),
            b'a' => {
                let first = at + 4 + padding(at + 4, alignment(*type_.get(1)?));
                return first.checked_add(endian.u32_at(data, at)? as usize);
            }
            b'v' => {
                let length = usize::from(*data.get(at)?);
                type_ = data.get(at + 1..at + 1 + length)?;
                validate_single(type_).ok()?;
                at += 2 + length;
            }
            b'(' | b'{' if depth < MAX_DEPTH => {
                return behind_all(type_.get(1..type_.len() - 1)?, data, at, endian, depth + 1);
            }
            _ => return Some(at + fixed_size(code)).filter(|_| fixed_size(code) > 0),
        }
    }
}

fn behind_all(types: &[u8], data: &[u8], mut at: usize, endian: Endian, depth: u32) -> Option<usize> {
    let mut from = 0;
    while from < types.len() {
        let to = behind_type(types, from)?;
        at = behind(types.get(from..to)?, data, at, endian, depth)?;
        from = to;
    }
    Some(at)
}
