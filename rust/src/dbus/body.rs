//! Bodies as they lie, checked without making objects of them.
//!
//! Theory. A check runs the operations of a signature over the bytes. It is a machine with plain state
//! (position, frame, stack), hence it can stop anywhere and go on later: a step spends one unit of its budget
//! per byte that it looks at, and never less than `VALUE_COST` per value. What is looked at in bulk (long
//! texts, arrays of booleans or descriptors) is cut into chunks; arrays of other types of fixed size are one
//! operation, whatever their length. The operations of a variant lie on top of the program while the
//! check is inside of it.
//!
//! Invariants. 1. The verdict does not depend on the budgets. 2. One step costs time in proportion to its
//! budget, whatever the body. 3. Program and stack are bounded by `MAX_DEPTH`.
//!
//! Not here: headers, signatures, and the values of a body.

use super::signature::{Kind, Op, compile, compile_single, validate};
use super::values::{
    array, check_depth, check_text, check_utf8, cut_off, number, skip_padding, too_great, u32_at,
    whole_characters, without_nul,
};
use super::{Endian, Malformed, clamped, is_plain, names};

/// What a value costs at least.
pub const VALUE_COST: i64 = 16;
/// What is looked at in bulk at a time.
pub const CHUNK: usize = 1 << 16;
/// The budget of a check at one go.
const UNLIMITED: i64 = 1 << 62;
const NO_PATH: &str = "not an object path";

/// Where a check is in the operations: those of an array's element, of a variant, or of the whole body.
#[derive(Clone, Copy, Debug)]
struct Frame {
    /// The first of them.
    start: u32,
    next: u32,
    /// How many containers there are outside of a variant.
    outside: u32,
    /// Where the array ends.
    end: Option<usize>,
}

/// A range that is looked at chunk by chunk.
#[derive(Clone, Copy, Debug)]
struct Bulk {
    kind: Kind,
    at: usize,
    end: usize,
}

/// What made a check stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// The body is valid.
    Done,
    /// The budget is used up.
    Budget,
    /// Here is an object path, from the first position up to the second.
    Path(usize, usize),
}

/// The check of one body against its signature; `step` until it is done. The body is the same each time.
#[derive(Debug)]
pub struct BodyCheck {
    endian: Endian,
    n_fds: Option<u32>,
    program: Vec<Op>,
    stack: Vec<Frame>,
    frame: Frame,
    at: usize,
    bulk: Option<Bulk>,
    stops_at_paths: bool,
    /// Of the budget, once the check has paused.
    pub left: i64,
}

impl BodyCheck {
    /// Malformed for a bad signature. `n_fds` is how many descriptors there are; None: any index will do.
    pub fn new(signature: impl AsRef<[u8]>, endian: Endian, n_fds: Option<u32>) -> Result<Self, Malformed> {
        let signature = signature.as_ref();
        let mut program = Vec::with_capacity(signature.len() + 1);
        compile(signature, &mut program)?;
        Ok(Self {
            endian,
            n_fds,
            program,
            stack: Vec::new(),
            frame: Frame { start: 0, next: 0, outside: 0, end: None },
            at: 0,
            bulk: None,
            stops_at_paths: false,
            left: 0,
        })
    }

    /// The same, and `go_on` stops at each object path.
    pub fn with_paths(self) -> Self {
        Self { stops_at_paths: true, ..self }
    }

    /// Go on for about `budget` bytes; true once the body is found valid.
    pub fn step(&mut self, body: &[u8], budget: usize) -> Result<bool, Malformed> {
        let mut left = i64::try_from(budget).unwrap_or(UNLIMITED);
        loop {
            match self.go_on(body, left)? {
                Pause::Done => return Ok(true),
                Pause::Budget => return Ok(false),
                Pause::Path(..) => left = self.left,
            }
        }
    }

    /// Go on for about `budget` bytes, of which `left` are left then.
    pub fn go_on(&mut self, body: &[u8], budget: i64) -> Result<Pause, Malformed> {
        match self.endian {
            Endian::Little => self.run::<false>(body, budget),
            Endian::Big => self.run::<true>(body, budget),
        }
    }

    fn run<const BIG: bool>(&mut self, data: &[u8], mut left: i64) -> Result<Pause, Malformed> {
        let mut at = self.at;
        let Frame { mut start, mut next, mut outside, mut end } = self.frame;
        let mut pause = Pause::Budget;
        left = self.look_on::<BIG>(data, left)?;
        while left > 0 {
            let Some(&Op { kind, mask, size, depth, behind }) = self.program.get(next as usize) else {
                return Err(cut_off());
            };
            next += 1;
            left -= VALUE_COST;
            if at & usize::from(mask) != 0 {
                at = skip_padding(data, at, mask)?;
            }
            match kind {
                Kind::Text => {
                    let first = at + 4;
                    let length = u32_at::<BIG>(data, at)? as usize;
                    let last = first.saturating_add(length);
                    at = last.saturating_add(1);
                    if length >= CHUNK {
                        self.look_at(data, kind, first, last)?;
                        left = self.look_on::<BIG>(data, left)?;
                    } else {
                        check_text(data, first, last)?;
                        left -= length as i64 + 1;
                    }
                }
                Kind::Fixed => {
                    at += usize::from(size);
                    if at > data.len() {
                        return Err(cut_off());
                    }
                }
                Kind::End => match end {
                    Some(end) if at < end => next = start,
                    Some(end) if at > end => {
                        return Err(Malformed::new("an element reaches beyond its array"));
                    }
                    _ => {
                        if let Some(outer) = self.stack.pop() {
                            if end.is_none() {
                                self.program.truncate(start as usize);
                            }
                            Frame { start, next, outside, end } = outer;
                        } else if at == data.len() {
                            pause = Pause::Done;
                            break;
                        } else {
                            return Err(Malformed::new(format!(
                                "the body has {} bytes, its signature gives {at}",
                                data.len()
                            )));
                        }
                    }
                },
                Kind::Align => check_depth(outside + u32::from(depth))?,
                Kind::Array => {
                    if u32_at::<BIG>(data, at)? != 0 {
                        check_depth(outside + u32::from(depth))?;
                    }
                    let (first, stop) = array::<BIG>(data, at, size)?;
                    at = first;
                    if first < stop {
                        self.stack.push(Frame { start, next: behind, outside, end });
                        (start, end) = (next, Some(stop));
                    } else {
                        next = behind;
                    }
                }
                Kind::Variant => {
                    check_depth(outside + u32::from(depth))?;
                    let first = at + 1;
                    let length = usize::from(*data.get(at).ok_or_else(cut_off)?);
                    at = first + length + 1;
                    left -= VALUE_COST * (length as i64 + 1);
                    self.stack.push(Frame { start, next, outside, end });
                    start = self.program.len() as u32;
                    compile_single(without_nul(clamped(data, first, at))?, &mut self.program)?;
                    (next, end) = (start, None);
                    outside += u32::from(depth) + 1;
                }
                Kind::Bool | Kind::Fd => {
                    if self.is_too_great(kind, u32_at::<BIG>(data, at)?) {
                        return Err(too_great(kind));
                    }
                    at += 4;
                }
                Kind::Path => {
                    let first = at + 4;
                    let length = u32_at::<BIG>(data, at)? as usize;
                    let last = first.saturating_add(length);
                    at = last.saturating_add(1);
                    let cost = self.path(data, first, last)?;
                    if self.stops_at_paths {
                        // what is looked at in bulk comes after the path is told
                        left -= cost;
                        pause = Pause::Path(first, last);
                        break;
                    }
                    left = self.look_on::<BIG>(data, left - cost)?;
                }
                Kind::Signature => {
                    let length = usize::from(*data.get(at).ok_or_else(cut_off)?);
                    let stop = at + 2 + length;
                    validate(without_nul(clamped(data, at + 1, stop))?)?;
                    left -= VALUE_COST * (length as i64 + 2);
                    at = stop;
                }
                Kind::FixedArray | Kind::Bools | Kind::Fds => {
                    let (first, stop) = array::<BIG>(data, at, size)?;
                    if (stop - first) & usize::from(size) != 0 {
                        return Err(Malformed::new(
                            "the length of an array is no multiple of its element's size",
                        ));
                    }
                    at = stop;
                    if kind != Kind::FixedArray && stop > first {
                        self.bulk = Some(Bulk { kind, at: first, end: stop });
                        left = self.look_on::<BIG>(data, left)?;
                    }
                }
            }
        }
        self.frame = Frame { start, next, outside, end };
        self.at = at;
        self.left = left;
        Ok(pause)
    }

    /// Checks a path, or the ends of a long one; what that costs.
    fn path(&mut self, data: &[u8], first: usize, last: usize) -> Result<i64, Malformed> {
        if last - first > CHUNK {
            self.look_at(data, Kind::Path, first, last)?;
            if data.get(first) != Some(&b'/') || data.get(last - 1) == Some(&b'/') {
                return Err(Malformed::new(NO_PATH));
            }
            return Ok(0);
        }
        if data.get(last) != Some(&0) || !names::is_object_path(clamped(data, first, last)) {
            return Err(Malformed::new(NO_PATH));
        }
        Ok((last - first) as i64)
    }

    fn is_too_great(&self, kind: Kind, number: u32) -> bool {
        match kind {
            Kind::Bool | Kind::Bools => number > 1,
            _ => self.n_fds.is_some_and(|n_fds| number >= n_fds),
        }
    }

    /// A text from the first position up to the second is looked at chunk by chunk.
    fn look_at(&mut self, data: &[u8], kind: Kind, first: usize, last: usize) -> Result<(), Malformed> {
        if data.get(last) != Some(&0) {
            return Err(Malformed::new("a string is cut off, or has no NUL behind"));
        }
        self.bulk = Some(Bulk { kind, at: first, end: last });
        Ok(())
    }

    /// Go on with the bulk, if there is one; what is left of the budget.
    #[inline]
    fn look_on<const BIG: bool>(&mut self, data: &[u8], left: i64) -> Result<i64, Malformed> {
        if self.bulk.is_none() { Ok(left) } else { self.look_at_chunks::<BIG>(data, left) }
    }

    fn look_at_chunks<const BIG: bool>(&mut self, data: &[u8], mut left: i64) -> Result<i64, Malformed> {
        while let Some(Bulk { kind, at, end }) = self.bulk {
            if left <= 0 {
                break;
            }
            let mut stop = at.saturating_add(CHUNK).min(end);
            match kind {
                Kind::Text => {
                    stop = whole_characters(data, stop, end);
                    let text = clamped(data, at, stop);
                    if !is_plain(text) {
                        if text.contains(&0) {
                            return Err(Malformed::new("a string has a NUL inside"));
                        }
                        check_utf8(text)?;
                    }
                }
                Kind::Path => {
                    let is_split = data.get(stop - 1) == Some(&b'/') && data.get(stop) == Some(&b'/');
                    if is_split || !names::is_part_of_path(clamped(data, at, stop)) {
                        return Err(Malformed::new(NO_PATH));
                    }
                }
                _ => {
                    let (numbers, _) = clamped(data, at, stop).as_chunks::<4>();
                    let greatest = numbers.iter().fold(0, |most, bytes| most.max(number::<BIG>(*bytes)));
                    if self.is_too_great(kind, greatest) {
                        return Err(too_great(kind));
                    }
                }
            }
            left -= (stop - at) as i64;
            self.bulk = if stop == end { None } else { Some(Bulk { kind, at: stop, end }) };
        }
        Ok(left)
    }
}

thread_local! {
    /// The room of the last check at one go: most need no other.
    static ROOM: std::cell::Cell<Option<(Vec<Op>, Vec<Frame>)>> = const { std::cell::Cell::new(None) };
}

/// The whole check at one go, any index of a descriptor being good.
pub fn check_body(signature: impl AsRef<[u8]>, body: &[u8], endian: Endian) -> Result<(), Malformed> {
    check_body_with(signature.as_ref(), body, endian, None)
}

/// Whether it is one short text in ASCII, or bytes, and right: most bodies need no program.
fn is_usual(signature: &[u8], body: &[u8], endian: Endian) -> bool {
    let length = endian.u32_at(body, 0).map_or(CHUNK, |length| length as usize);
    match (signature, body.get(4..)) {
        (b"s", Some([text @ .., 0])) => length < CHUNK && text.len() == length && is_plain(text),
        (b"ay", Some(bytes)) => length < CHUNK && bytes.len() == length,
        _ => false,
    }
}

/// The whole check at one go; `n_fds` as of `BodyCheck`.
pub fn check_body_with(
    signature: &[u8],
    body: &[u8],
    endian: Endian,
    n_fds: Option<u32>,
) -> Result<(), Malformed> {
    if signature.is_empty() && body.is_empty() || is_usual(signature, body, endian) {
        return Ok(());
    }
    let (mut program, mut stack) = ROOM.take().unwrap_or_default();
    program.clear();
    stack.clear();
    compile(signature, &mut program)?;
    let frame = Frame { start: 0, next: 0, outside: 0, end: None };
    let mut check =
        BodyCheck { endian, n_fds, program, stack, frame, at: 0, bulk: None, stops_at_paths: false, left: 0 };
    let verdict = check.go_on(body, UNLIMITED);
    ROOM.set(Some((check.program, check.stack)));
    verdict.map(|_| ())
}
