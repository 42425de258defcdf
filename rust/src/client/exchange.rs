//! Requests and answers of one channel.
//!
//! Theory. The twin of `Exchange` of `bus1/exchange.py`, which says what the rules are: a request has one outcome,
//! a message that nobody waits for any more is kept for the next RECV, a quiet request has succeeded when a later
//! one is answered. `L` is whoever is told that a quiet request has failed.
//!
//! Invariants. 1. Every request has exactly one outcome. 2. Descriptors of answers that nobody takes are closed.
//! 3. After a failure every request fails with it.
//!
//! Not here: errors as Python has them (`py::client`), sockets (`sys`).

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::OwnedFd;

use ahash::RandomState;

use super::answer::{Answer, Failure, Refusal};
use super::frames::{Frame, Reader, Writer};
use super::protocol as wire;

type Table<V> = HashMap<u64, V, RandomState>;

/// What looking at one frame led to.
#[derive(Debug)]
pub enum Step<L> {
    /// There was no whole frame.
    Nothing,
    /// It has been dealt with.
    Done,
    /// A quiet request has failed.
    Failed(L, Refusal),
}

/// Requests and answers of one channel.
#[derive(Debug)]
pub struct Exchange<L> {
    /// What has arrived.
    pub reader: Reader,
    /// What is to be sent.
    pub writer: Writer,
    /// Messages that cancelled RECVs brought along, in order of arrival.
    pub stray: VecDeque<Answer>,
    /// Messages that cancelled RECVs have looked at, and added references to handles.
    pub unwanted: Vec<Answer>,
    /// Segments that the bus wants back.
    pub retired: Vec<u64>,
    /// Bytes to take from the peer's descriptor.
    pub n_drained: u64,
    /// How many answers have arrived.
    pub n_answers: u64,
    /// Listeners that nothing will be told any more; whoever locks this forgets them when it is unlocked.
    pub silent: Vec<L>,
    failure: Option<Failure>,
    last_tag: u64,
    outstanding: Table<u16>,
    abandoned: HashSet<u64, RandomState>,
    quiet: VecDeque<(u64, u16, L)>,
    flags: Table<u64>,
    answers: Table<VecDeque<Answer>>,
    offers: Table<Vec<OwnedFd>>,
}

impl<L> Default for Exchange<L> {
    fn default() -> Self {
        Self {
            reader: Reader::default(),
            writer: Writer::default(),
            stray: VecDeque::new(),
            unwanted: Vec::new(),
            retired: Vec::new(),
            n_drained: 0,
            n_answers: 0,
            silent: Vec::new(),
            failure: None,
            last_tag: 0,
            outstanding: Table::default(),
            abandoned: HashSet::default(),
            quiet: VecDeque::new(),
            flags: Table::default(),
            answers: Table::default(),
            offers: Table::default(),
        }
    }
}

impl<L> Exchange<L> {
    /// Why this channel is of no use any more.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// Queue a request; takes the descriptors; returns its tag. A complaint if it is too short for what it is.
    pub fn request(&mut self, operation: u16, body: &[u8], fds: Vec<OwnedFd>) -> Result<u64, String> {
        let flags = match wire::flags_at(operation) {
            Some(at) => Some(wire::u64_at(body, at).ok_or_else(|| short(operation, body))?),
            None => None,
        };
        self.last_tag += 1;
        let tag = self.last_tag;
        self.outstanding.insert(tag, operation);
        if let Some(flags) = flags {
            self.flags.insert(tag, flags);
        }
        self.writer.push(operation, tag, &[body], fds);
        Ok(tag)
    }

    /// Whether `post` can be used now.
    pub fn may_be_quiet(&self) -> bool {
        self.quiet.len() < wire::MAX_QUIET
    }

    /// Queue a quiet request; `listener` is told if it fails.
    pub fn post(&mut self, operation: u16, parts: &[&[u8]], listener: L) {
        self.last_tag += 1;
        self.quiet.push_back((self.last_tag, operation, listener));
        self.writer.push(operation | wire::QUIET, self.last_tag, parts, Vec::new());
    }

    /// Ask the bus to give a RECV up.
    pub fn recall(&mut self, tag: u64) {
        if self.failure.is_none() && self.outstanding.contains_key(&tag) {
            self.writer.push(wire::CANCEL, tag, &[], Vec::new());
        }
    }

    /// Nobody waits for this answer any more.
    pub fn abandon(&mut self, tag: u64) {
        for answer in self.answers.remove(&tag).unwrap_or_default() {
            self.keep_or_drop(answer);
        }
        if self.outstanding.contains_key(&tag) {
            self.abandoned.insert(tag);
        }
    }

    /// The request has an answer that was not taken, or will have one, or the channel has failed.
    pub fn expects(&self, tag: u64) -> bool {
        self.failure.is_some() || self.answers.contains_key(&tag) || self.outstanding.contains_key(&tag)
    }

    fn next_answer(&mut self, tag: u64) -> Option<Answer> {
        let waiting = self.answers.get_mut(&tag)?;
        let answer = waiting.pop_front();
        if waiting.is_empty() {
            self.answers.remove(&tag);
        }
        answer
    }

    /// The next answer, once; None while it is outstanding. What failed is the caller's to look at first.
    pub fn take(&mut self, tag: u64) -> Option<Answer> {
        let answer = self.next_answer(tag);
        if self.stray.is_empty() {
            return answer;
        }
        match answer {
            None if self.failure.is_none() && self.takes_any(tag) => self.stray.pop_front(),
            Some(answer) if answer.is_from_queue => self.first_of(answer),
            answer => answer,
        }
    }

    fn first_of(&mut self, answer: Answer) -> Option<Answer> {
        match &answer.error {
            None => self.keep_or_drop(answer),
            Some(error) if error.code != wire::WOULD_BLOCK => return Some(answer),
            Some(_) => {}
        }
        self.stray.pop_front()
    }

    fn takes_any(&self, tag: u64) -> bool {
        self.outstanding.get(&tag) == Some(&wire::RECV)
            && !self.abandoned.contains(&tag)
            && self.flags.get(&tag).is_some_and(|flags| flags & wire::SEED == 0)
    }

    /// The next answer, if it is one that `is_wanted`, and nothing comes before it.
    pub fn take_if(&mut self, tag: u64, is_wanted: impl FnOnce(&Answer) -> bool) -> Option<Answer> {
        let next = self.answers.get(&tag)?.front()?;
        if self.stray.is_empty() && is_wanted(next) {
            return self.next_answer(tag);
        }
        None
    }

    /// An answer that was taken is the next one again.
    pub fn put_back(&mut self, tag: u64, answer: Answer) {
        self.answers.entry(tag).or_default().push_front(answer);
    }

    /// The RECV with this tag will be answered again, and nothing has come for it that was not taken.
    pub fn is_waiting(&self, tag: u64) -> bool {
        self.failure.is_none()
            && self.stray.is_empty()
            && !self.answers.contains_key(&tag)
            && self.outstanding.contains_key(&tag)
    }

    /// Queue a request whose outcome does not matter.
    pub fn forget(&mut self, operation: u16, body: &[u8], nobody: L) {
        if self.failure.is_some() {
            return;
        }
        if self.may_be_quiet() {
            self.post(operation, &[body], nobody);
        } else if let Ok(tag) = self.request(operation, body, Vec::new()) {
            self.abandon(tag);
        }
    }

    /// Tags for which there is something to be taken, those of answers first, in order of arrival.
    pub fn answered(&self) -> Vec<u64> {
        let mut found: Vec<(u64, u64)> =
            self.answers.iter().filter_map(|(tag, waiting)| Some((waiting.front()?.arrival, *tag))).collect();
        found.sort_unstable();
        let mut tags: Vec<u64> = found.into_iter().map(|(_, tag)| tag).collect();
        if !self.stray.is_empty() {
            let mut more: Vec<u64> = self.flags.keys().copied().collect();
            more.retain(|tag| self.takes_any(*tag));
            more.sort_unstable();
            tags.extend(more);
        }
        tags
    }

    /// Look at the next frame that has arrived.
    pub fn step(&mut self) -> Step<L> {
        if self.failure.is_some() {
            return Step::Nothing;
        }
        let frame = match self.reader.next_frame() {
            Ok(None) => return Step::Nothing,
            Ok(Some(frame)) => frame,
            Err(complaint) => {
                self.fail(Failure::Broken(complaint));
                return Step::Nothing;
            }
        };
        match self.arrived(frame) {
            Ok(step) => step,
            Err(complaint) => {
                self.fail(Failure::Broken(complaint));
                Step::Nothing
            }
        }
    }

    /// The channel is of no use any more.
    pub fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
        self.outstanding.clear();
        self.abandoned.clear();
        let told = std::mem::take(&mut self.quiet);
        self.silent.extend(told.into_iter().map(|(_, _, listener)| listener));
        self.flags.clear();
        self.offers.clear();
        self.unwanted.clear();
        self.reader.close();
        self.writer.close();
    }

    fn arrived(&mut self, frame: Frame) -> Result<Step<L>, String> {
        let operation = frame.operation;
        if frame.is_quiet {
            return Err(format!("a quiet frame {operation:#x} from the bus"));
        }
        if operation & wire::ANSWER != 0 {
            return self.answer(frame);
        }
        match operation {
            wire::OFFER => self.offer(frame)?,
            wire::RETIRED => {
                let generation = wire::u64_at(&frame.body, 0);
                self.retired.push(generation.ok_or_else(|| short(operation, &frame.body))?);
            }
            wire::REFUSED => {
                let code = wire::u32_at(&frame.body, 0).ok_or_else(|| short(operation, &frame.body))?;
                let text = frame.body.get(4..).unwrap_or_default().to_vec();
                self.fail(Failure::Refused(Refusal { code, text }));
            }
            _ => return Err(format!("the bus sent an unknown frame {operation:#x}")),
        }
        Ok(Step::Done)
    }

    fn offer(&mut self, frame: Frame) -> Result<(), String> {
        let operation = self.outstanding.get(&frame.tag).copied();
        if operation.is_none_or(|operation| wire::flags_at(operation).is_none()) {
            let tag = frame.tag;
            return Err(format!("descriptors offered for tag {tag}, which receives nothing"));
        }
        self.offers.remove(&frame.tag);
        let is_complete = frame.fds.len() == frame.n_fds;
        if is_complete {
            self.offers.insert(frame.tag, frame.fds);
        }
        let body = u64::from(is_complete).to_le_bytes();
        self.writer.push(wire::INSTALLED, frame.tag, &[&body], Vec::new());
        Ok(())
    }

    /// Forget the quiet requests that have succeeded; the one that the answer is to, if it is to one.
    fn settle_quiet(&mut self, tag: u64) -> Option<(u16, L)> {
        while let Some((number, _, _)) = self.quiet.front() {
            if *number > tag {
                break;
            }
            let (number, operation, listener) = self.quiet.pop_front()?;
            if number == tag {
                return Some((operation, listener));
            }
            self.silent.push(listener);
        }
        None
    }

    fn answer(&mut self, frame: Frame) -> Result<Step<L>, String> {
        let (answer, tag) = (frame.operation, frame.tag);
        let prefix =
            (wire::u32_at(&frame.body, 0), wire::u16_at(&frame.body, 4), wire::u16_at(&frame.body, 6));
        if let Some((operation, listener)) = self.settle_quiet(tag) {
            return match prefix {
                (Some(0), _, Some(_)) if operation | wire::ANSWER == answer => {
                    self.silent.push(listener);
                    Ok(Step::Done)
                }
                (Some(code), _, Some(_)) if operation | wire::ANSWER == answer => {
                    Ok(Step::Failed(listener, refusal(code, &frame.body)))
                }
                _ => {
                    self.silent.push(listener);
                    Err(format!("an answer {answer:#x} to a quiet request, tag {tag}"))
                }
            };
        }
        let operation = match self.outstanding.get(&tag) {
            Some(operation) if operation | wire::ANSWER == answer => *operation,
            _ => return Err(format!("an answer {answer:#x} to nothing, tag {tag}")),
        };
        let (Some(code), Some(done), Some(notes)) = prefix else {
            return Err("an answer without a prefix".into());
        };
        let mut error = None;
        if code != 0 {
            error = Some(refusal(code, &frame.body));
        } else {
            let tail = frame.body.get(wire::PREFIX_SIZE..).unwrap_or_default();
            let fields = wire::result_fields(operation).unwrap_or_default();
            if tail.len() < wire::size_of(fields) {
                return Err(short(operation, tail));
            }
        }
        let offered = self.offers.remove(&tag).unwrap_or_default();
        self.n_drained += u64::from(notes & wire::DRAINED);
        self.n_answers += 1;
        let flags = self.flags.get(&tag).copied().unwrap_or(0);
        let is_last = code != 0 || notes & wire::MORE == 0;
        if is_last {
            self.outstanding.remove(&tag);
            self.flags.remove(&tag);
        }
        let answer = Answer {
            operation,
            done,
            body: frame.body,
            fds: frame.fds,
            offered: if error.is_none() { offered } else { Vec::new() },
            error,
            arrival: self.n_answers,
            is_from_queue: wire::flags_at(operation).is_some() && flags & wire::SEED == 0,
            is_peek: flags & wire::PEEK != 0,
            is_released: notes & wire::RELEASED != 0,
        };
        if self.abandoned.contains(&tag) {
            if is_last {
                self.abandoned.remove(&tag);
            }
            self.keep_or_drop(answer);
        } else {
            self.answers.entry(tag).or_default().push_back(answer);
        }
        Ok(Step::Done)
    }

    fn keep_or_drop(&mut self, answer: Answer) {
        if answer.is_peek && answer.error.is_none() && self.failure.is_none() {
            self.unwanted.push(answer);
        } else if answer.is_message() {
            let at = self.stray.partition_point(|kept| kept.arrival <= answer.arrival);
            self.stray.insert(at, answer);
        }
    }
}

fn short(operation: u16, body: &[u8]) -> String {
    format!("operation {operation:#x} with {} bytes", body.len())
}

fn refusal(code: u32, body: &[u8]) -> Refusal {
    let text = body.get(wire::PREFIX_SIZE..).unwrap_or_default().to_vec();
    Refusal { code, text }
}
