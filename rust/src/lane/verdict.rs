//! Verdicts: whether the policies of sender and receiver let a message pass, as the guard in Python decides it.
//!
//! Theory. A message passes if its sender may send it to its receiver, and its receiver may receive it from its sender;
//! the bus itself is asked nothing. What is addressed and refused, and what a rule wants to be reported, is Python's: it
//! has the words. Of a broadcast those who may not have it are left out in silence, which is all that happens.
//!
//! Invariants. 1. To ask changes nothing. 2. Who may do everything is not asked. 3. Of whom the lane knows no policy
//! nothing is sure.
//!
//! Not here: the rules (`tables::policy`), what becomes of the message (`express`).

use std::sync::Arc;

use super::connection::{Connection, Standing};
use super::express::NotEveryday;
use super::parties::Parties;
use crate::dbus::fields::Span;
use crate::dbus::header::Header;
use crate::dbus::{DRIVER_NAME, DRIVER_PATH, RETURN, SIGNAL};
use crate::tables::ReplyTable;
use crate::tables::policy::{ClientPolicy, Facts, Names, Space};

/// The answer about one message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Passes,
    Refused,
    /// Python has to decide, or has something to report.
    Unsure,
}

impl Names for Connection {
    fn unique(&self) -> &str {
        &self.unique
    }

    fn held(&self) -> impl ExactSizeIterator<Item = &str> {
        self.held().claims.iter().map(AsRef::as_ref)
    }

    fn holds(&self, name: &str) -> bool {
        self.held().claims.contains(name)
    }

    fn holds_in(&self, space: &Space) -> bool {
        let behind = (std::ops::Bound::Included(space.dotted()), std::ops::Bound::Unbounded);
        let claims = &self.held().claims;
        claims.contains(space.name())
            || claims.range::<str, _>(behind).next().is_some_and(|name| space.contains(name))
    }
}

/// Who has one name, or none that matters.
struct Alone(&'static str);

impl Names for Alone {
    fn unique(&self) -> &str {
        self.0
    }

    fn held(&self) -> impl ExactSizeIterator<Item = &str> {
        std::iter::empty()
    }

    fn holds(&self, _name: &str) -> bool {
        false
    }

    fn holds_in(&self, _space: &Space) -> bool {
        false
    }
}

impl Standing {
    /// Nothing between the client and others who are so can be refused.
    pub fn is_open(&self) -> bool {
        self.sends_all && self.receives_all
    }

    /// The lane can tell what the client may send.
    pub fn is_known(&self) -> bool {
        self.sends_all || self.policy.is_some()
    }

    fn may_send(&self, message: &Facts<'_>, receiver: &impl Names, requested: bool) -> Word {
        if self.sends_all {
            return Word::Passes;
        }
        let Some(policy) = &self.policy else { return Word::Unsure };
        let verdict = policy.may_send(message, receiver, requested);
        match (verdict.allowed, verdict.log) {
            (true, false) => Word::Passes,
            (true, true) => Word::Unsure,
            (false, _) => Word::Refused,
        }
    }

    fn may_receive(&self, message: &Facts<'_>, sender: &impl Names, requested: bool) -> Word {
        if self.receives_all {
            return Word::Passes;
        }
        let Some(policy) = &self.policy else { return Word::Unsure };
        let is_allowed = policy.may_receive(message, sender, requested).allowed;
        if is_allowed { Word::Passes } else { Word::Refused }
    }
}

fn facts<'m>(header: &Header, bytes: &'m [u8]) -> Facts<'m> {
    let text = |span: Span| if span.is_some() { Some(span.bytes(bytes)) } else { None };
    Facts {
        kind: header.kind,
        path: text(header.path_span),
        interface: text(header.interface_span),
        member: text(header.member_span),
        error_name: text(header.error_name_span),
        has_destination: header.destination_span.is_some(),
        is_reply: header.reply_serial != 0,
        unix_fds: header.unix_fds,
    }
}

/// Whether a message that is addressed to `reader` may pass, and nobody has to be told.
pub fn passes(
    sender: &Connection,
    reader: &Connection,
    header: &Header,
    bytes: &[u8],
    replies: &ReplyTable,
) -> bool {
    if sender.standing.sends_all && reader.standing.receives_all {
        return true;
    }
    let message = facts(header, bytes);
    let requested = message.is_reply && replies.awaits(reader.peer, sender.peer, header.reply_serial);
    sender.standing.may_send(&message, reader, requested) == Word::Passes
        && reader.standing.may_receive(&message, sender, requested) == Word::Passes
}

/// Whether the client may ask the bus this, and have its answer.
pub fn may_ask(client: &Connection, header: &Header, bytes: &[u8]) -> bool {
    if client.standing.is_open() {
        return true;
    }
    client.standing.may_send(&facts(header, bytes), &Alone(DRIVER_NAME), false) == Word::Passes
        && may_have_answer(client, 0)
}

/// Whether the client may have an answer of the bus with so many descriptors.
pub fn may_have_answer(client: &Connection, unix_fds: u32) -> bool {
    let answer = Facts { kind: RETURN, has_destination: true, is_reply: true, unix_fds, ..Facts::default() };
    client.standing.may_receive(&answer, &Alone(DRIVER_NAME), true) == Word::Passes
}

/// Whether a client may have the answer to Hello, and NameAcquired.
pub fn may_have_its_name(client: &Connection) -> bool {
    let acquired = Facts { has_destination: true, ..of_names(b"NameAcquired") };
    may_have_answer(client, 0)
        && client.standing.may_receive(&acquired, &Alone(DRIVER_NAME), false) == Word::Passes
}

/// Whether a client whose rules match may have NameOwnerChanged.
pub fn may_hear_of_names(client: &Connection) -> Result<bool, NotEveryday> {
    let changed = of_names(b"NameOwnerChanged");
    match client.standing.may_receive(&changed, &Alone(DRIVER_NAME), false) {
        Word::Passes => Ok(true),
        Word::Refused => Ok(false),
        Word::Unsure => Err(NotEveryday),
    }
}

/// A signal of the bus about a name.
fn of_names(member: &[u8]) -> Facts<'_> {
    Facts {
        kind: SIGNAL,
        path: Some(DRIVER_PATH.as_bytes()),
        interface: Some(DRIVER_NAME.as_bytes()),
        member: Some(member),
        ..Facts::default()
    }
}

/// Of those whose rules match a broadcast, those who may have it.
///
/// What is asked is the same for all receivers with one policy, and mostly for all without names: it is asked once.
pub fn leave_out(
    sender: &Connection,
    parties: &Parties,
    header: &Header,
    bytes: &[u8],
    peers: &mut Vec<u64>,
) -> Result<(), NotEveryday> {
    if sender.standing.sends_all && parties.receive_all() {
        return Ok(());
    }
    let message = facts(header, bytes);
    let unnamed = match &sender.standing.policy {
        Some(policy) if !policy.sends_to_all_unnamed_alike() => None,
        _ => Some(sender.standing.may_send(&message, &Alone(""), false)),
    };
    let mut last: Option<(&Arc<ClientPolicy>, Word)> = None;
    let mut is_sure = true;
    peers.retain(|&peer| {
        let Some(reader) = parties.slot(peer).and_then(|slot| parties.get(slot)) else {
            is_sure = false;
            return true;
        };
        let sent = match unnamed {
            Some(word) if reader.held().claims.is_empty() => word,
            _ => sender.standing.may_send(&message, reader, false),
        };
        let received = match (&reader.standing.policy, last) {
            (Some(policy), Some((known, word))) if Arc::ptr_eq(policy, known) => word,
            (policy, _) => {
                let word = reader.standing.may_receive(&message, sender, false);
                last = policy.as_ref().map(|policy| (policy, word)).or(last);
                word
            }
        };
        is_sure &= sent != Word::Unsure && (sent == Word::Refused || received != Word::Unsure);
        sent == Word::Passes && received == Word::Passes
    });
    if is_sure { Ok(()) } else { Err(NotEveryday) }
}
