//! The values of a body, each by itself: is what lies here a string, an array, a number that will do?
//!
//! Theory. A function looks at one value and says where it ends, or what is wrong with it. The byte order is
//! a constant, so that each order has code of its own.
//!
//! Invariants. 1. Nothing is looked at twice but texts that are not ASCII.
//!
//! Not here: which value comes next, and what that costs (`body`).

use super::signature::Kind;
use super::{MAX_ARRAY, MAX_DEPTH, Malformed, is_plain};

const CUT_OFF: &str = "the body ends within a value";
const NO_UTF8: &str = "a string is not UTF-8";

#[inline]
pub(super) fn number<const BIG: bool>(bytes: [u8; 4]) -> u32 {
    if BIG { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
}

#[inline]
pub(super) fn u32_at<const BIG: bool>(data: &[u8], at: usize) -> Result<u32, Malformed> {
    match data.get(at..).and_then(|rest| rest.first_chunk()) {
        Some(bytes) => Ok(number::<BIG>(*bytes)),
        None => Err(cut_off()),
    }
}

#[inline]
pub(super) fn skip_padding(data: &[u8], at: usize, mask: u8) -> Result<usize, Malformed> {
    let stop = (at | usize::from(mask)) + 1;
    match data.get(at..stop) {
        Some(zeros) if zeros.iter().all(|byte| *byte == 0) => Ok(stop),
        _ => Err(Malformed::new("padding is missing or not zero")),
    }
}

/// First and last position of the elements of an array.
#[inline]
pub(super) fn array<const BIG: bool>(data: &[u8], at: usize, mask: u8) -> Result<(usize, usize), Malformed> {
    let size = u32_at::<BIG>(data, at)?;
    if size > MAX_ARRAY {
        return Err(Malformed::new(format!("an array of {size} bytes, {MAX_ARRAY} are allowed")));
    }
    let mut first = at + 4;
    if first & usize::from(mask) != 0 {
        first = skip_padding(data, first, mask)?;
    }
    let stop = first + size as usize;
    if stop > data.len() {
        return Err(Malformed::new("an array reaches beyond the body"));
    }
    Ok((first, stop))
}

/// A text that lies from `first` up to the NUL at `last`.
#[inline]
pub(super) fn check_text(data: &[u8], first: usize, last: usize) -> Result<(), Malformed> {
    match data.get(first..=last) {
        Some([text @ .., 0]) if is_plain(text) => Ok(()),
        Some([text @ .., 0]) if !text.contains(&0) => check_utf8(text),
        _ => Err(Malformed::new("a string is cut off, or has a NUL inside or none behind")),
    }
}

pub(super) fn check_utf8(text: &[u8]) -> Result<(), Malformed> {
    std::str::from_utf8(text).map(|_| ()).map_err(|_| Malformed::new(NO_UTF8))
}

/// Where to stop so that no character is cut: it has at most three bytes after its first.
pub(super) fn whole_characters(data: &[u8], stop: usize, end: usize) -> usize {
    if stop == end {
        return stop;
    }
    let is_within = |at: &usize| data.get(*at).is_some_and(|byte| byte & 0xC0 == 0x80);
    (0..4).map(|back| stop - back).find(|at| !is_within(at)).unwrap_or(stop)
}

#[inline]
pub(super) fn without_nul(signature: &[u8]) -> Result<&[u8], Malformed> {
    match signature {
        [signature @ .., 0] => Ok(signature),
        _ => Err(Malformed::new("a signature is cut off, or has no NUL behind")),
    }
}

#[inline]
pub(super) fn check_depth(containers: u32) -> Result<(), Malformed> {
    if containers < MAX_DEPTH {
        return Ok(());
    }
    Err(Malformed::new(format!("more than {MAX_DEPTH} containers within each other")))
}

#[cold]
pub(super) fn cut_off() -> Malformed {
    Malformed::new(CUT_OFF)
}

#[cold]
pub(super) fn too_great(kind: Kind) -> Malformed {
    Malformed::new(match kind {
        Kind::Bool | Kind::Bools => "a boolean is neither 0 nor 1",
        _ => "the index of a descriptor that the message does not have",
    })
}
