//! What the bus itself is asked, if that is everyday.
//!
//! Theory. `METHODS` has a row for each method of the driver that is carried out here: its signatures, and what answers. That
//! finds out, without an effect, what is to be said and done; then the answer is on its way, and what is to be done happens,
//! which cannot fail. Whoever is asked about is in the lane, or is surely nobody: the owners of well-known names are all known
//! here, of connections only those of the lane. What would be an error, or tells of somebody else, is Python's.
//!
//! Invariants. 1. What is answered here is what the driver in Python would have answered, byte for byte. 2. No call is carried
//! out whose answer finds no room.
//!
//! Not here: Hello (`arrival`), who may ask (`verdict`), what is said of a connection (`profile`).

use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

use bytes::Bytes;
use smallvec::SmallVec;

use super::connection::Connection;
use super::express::{FDS_UNTOLD, NotEveryday, Post, descriptors_below};
use super::parties::Parties;
use super::poller::locked;
use super::profile;
use super::transit::{Ahead, BUS, Marks, Size};
use super::verdict;
use super::world::Tables;
use crate::core::{Credentials, Parts};
use crate::dbus::build::{Outgoing, append};
use crate::dbus::fields::Span;
use crate::dbus::header::Header;
use crate::dbus::{CALL, DRIVER_NAME, Endian, NO_REPLY_EXPECTED, RETURN};
use crate::sys::sockets;
use crate::tables::{MatchIndex, MatchRule};

const PEER: &str = "org.freedesktop.DBus.Peer";
/// An answer has fewer bytes beyond its body and the name of who gets it.
const HEADER_ROOM: usize = 160;
/// Longer arguments are no names or rules.
const BODY_MAX: u32 = 4096;

/// Answers may wait in any number, those with a descriptor in some.
const MARKS: Marks = Marks { bytes: u64::MAX, fds: 16 };

/// One method that everybody may call at any path.
pub struct Method {
    interface: &'static str,
    member: &'static str,
    takes: &'static str,
    returns: &'static str,
    answer: fn(&Question<'_>, &mut Answer) -> Result<(), NotEveryday>,
}

const METHODS: [Method; 9] = [
    row("GetId", "", "s", id),
    row("AddMatch", "s", "", add_match),
    row("RemoveMatch", "s", "", remove_match),
    row("GetNameOwner", "s", "s", name_owner),
    row("NameHasOwner", "s", "b", name_has_owner),
    row("GetConnectionUnixUser", "s", "u", unix_user),
    row("GetConnectionUnixProcessID", "s", "u", process_id),
    row("GetConnectionCredentials", "s", "a{sv}", credentials),
    Method { interface: PEER, ..row("Ping", "", "", ping) },
];

const fn row(
    member: &'static str,
    takes: &'static str,
    returns: &'static str,
    answer: fn(&Question<'_>, &mut Answer) -> Result<(), NotEveryday>,
) -> Method {
    Method { interface: DRIVER_NAME, member, takes, returns, answer }
}

/// Who asks, and what about.
struct Question<'q> {
    parties: &'q Parties,
    matches: &'q Mutex<MatchIndex>,
    asker: &'q Connection,
    /// The argument, or nothing.
    text: &'q str,
}

/// What is to be said, and done.
#[derive(Default)]
struct Answer {
    body: SmallVec<[u8; 128]>,
    /// Goes along.
    fd: Option<OwnedFd>,
    effect: Option<Effect>,
}

enum Effect {
    Add(MatchRule),
    Remove(MatchRule),
}

impl Answer {
    fn put_text(&mut self, text: &str) {
        self.put_number(text.len() as u32);
        self.body.extend_from_slice(text.as_bytes());
        self.body.push(0);
    }

    fn put_number(&mut self, number: u32) {
        self.body.extend_from_slice(&Endian::Little.put(number));
    }
}

/// The method that a call to the bus means, if it may be everyday.
pub fn method_of(header: &Header, message: &[u8]) -> Option<&'static Method> {
    if header.kind != CALL || header.unix_fds != 0 || header.body_length > BODY_MAX {
        return None;
    }
    let bytes = |span: Span| span.bytes(message);
    let has_interface = header.interface_span.is_some();
    let is_meant = |method: &&Method| {
        method.member.as_bytes() == bytes(header.member_span)
            && (!has_interface || method.interface.as_bytes() == bytes(header.interface_span))
            && method.takes.as_bytes() == bytes(header.signature_span)
    };
    METHODS.iter().find(is_meant)
}

/// The call is answered, and has its effect.
pub fn ask(
    post: &Post<'_>,
    method: &'static Method,
    parties: &mut Parties,
    tables: &mut Tables<'_>,
) -> Result<(), NotEveryday> {
    let asker = parties.get(post.from).ok_or(NotEveryday)?;
    let header = post.header;
    let body = post.message.bytes().get(header.header_length..).unwrap_or_default();
    let text = if method.takes.is_empty() { "" } else { text_of(body, header.endian).ok_or(NotEveryday)? };
    let mut answer = Answer::default();
    (method.answer)(&Question { parties, matches: tables.matches, asker, text }, &mut answer)?;
    let peer = asker.peer;
    // values are sent whether anybody wants them or not
    if !method.returns.is_empty() || header.flags & NO_REPLY_EXPECTED == 0 {
        tell(post, method.returns, &mut answer, parties, tables)?;
    }
    match answer.effect {
        Some(Effect::Add(rule)) => locked(tables.matches).add(peer, &rule),
        Some(Effect::Remove(rule)) => {
            locked(tables.matches).remove(peer, &rule);
        }
        None => {}
    }
    Ok(())
}

/// The string that a valid body consists of.
fn text_of(body: &[u8], endian: Endian) -> Option<&str> {
    let length = endian.u32_at(body, 0)? as usize;
    std::str::from_utf8(body.get(4..)?.get(..length)?).ok()
}

/// The answer is on its way.
fn tell(
    post: &Post<'_>,
    returns: &str,
    answer: &mut Answer,
    parties: &mut Parties,
    tables: &mut Tables<'_>,
) -> Result<(), NotEveryday> {
    let to = parties.get(post.from).ok_or(NotEveryday)?;
    let fds: SmallVec<[RawFd; 1]> = answer.fd.iter().map(AsRawFd::as_raw_fd).collect();
    if !fds.is_empty() && (parties.fds.len() > FDS_UNTOLD || !verdict::may_have_answer(to, 1)) {
        return Err(NotEveryday);
    }
    let given = Outgoing {
        kind: RETURN,
        flags: NO_REPLY_EXPECTED,
        serial: to.next_serial,
        body_length: answer.body.len() as u32,
        reply_serial: post.header.serial,
        sender: Some(DRIVER_NAME),
        signature: returns,
        unix_fds: fds.len() as u32,
        ..Outgoing::default()
    };
    let put = |parties: &Parties, out: &mut Vec<u8>| {
        append(&Outgoing { destination: parties.get(post.from).map(|to| &*to.unique), ..given }, out);
        out.extend_from_slice(&answer.body);
    };
    let most = HEADER_ROOM + to.unique.len() + answer.body.len();
    let (core, ways) = (&mut tables.core, (BUS, post.from));
    let size = Size { most, n_fds: fds.len() };
    let has_passed = parties.may_pass_at_last(core, |parties, core| {
        parties.may_pass(core, ways, size, MARKS, &mut Ahead::default())
    }) && parties.append(core, ways, None, post.now, &fds, |parties, out| {
        put(parties, out);
        true
    });
    if has_passed {
        // it is the passage's now
        let _ = answer.fd.take().map(IntoRawFd::into_raw_fd);
    } else {
        queue(post, &fds, parties, tables, |parties| {
            let mut message = Vec::new();
            message.try_reserve(most).map_err(|_| NotEveryday)?;
            put(parties, &mut message);
            Ok(message)
        })?;
    }
    if let Some(to) = parties.get_mut(post.from) {
        to.draw_serial();
    }
    Ok(())
}

/// The answer waits for who has asked, unless it has a descriptor.
fn queue(
    post: &Post<'_>,
    fds: &[RawFd],
    parties: &mut Parties,
    tables: &mut Tables<'_>,
    write: impl FnOnce(&Parties) -> Result<Vec<u8>, NotEveryday>,
) -> Result<(), NotEveryday> {
    parties.settle(&mut tables.core);
    if !fds.is_empty() {
        return Err(NotEveryday);
    }
    let to = parties.get(post.from).ok_or(NotEveryday)?.peer;
    let was_empty = tables.core.waiting(to).ok_or(NotEveryday)?.messages == 0;
    let message = write(parties)?;
    let n_bytes = message.len();
    let mut parts = Parts::new();
    parts.push(Bytes::from(message));
    let bus = &parties.bus;
    tables.core.deliver(bus.peer, to, &parts, n_bytes, &[], &bus.credentials).map_err(|_| NotEveryday)?;
    parties.delivered(post.from, was_empty, post.now);
    Ok(())
}

// ---- the bus -----------------------------------------------------------------------------------------

fn id(question: &Question<'_>, answer: &mut Answer) -> Result<(), NotEveryday> {
    answer.put_text(&question.parties.bus.id);
    Ok(())
}

fn ping(_: &Question<'_>, _: &mut Answer) -> Result<(), NotEveryday> {
    Ok(())
}

// ---- rules -------------------------------------------------------------------------------------------

/// The rule that is meant, if it concerns only what is for everybody.
fn plain_rule(text: &str) -> Result<MatchRule, NotEveryday> {
    MatchRule::parse(text).ok().filter(|rule| !rule.eavesdrop).ok_or(NotEveryday)
}

fn add_match(question: &Question<'_>, answer: &mut Answer) -> Result<(), NotEveryday> {
    let (asker, rule) = (question.asker, plain_rule(question.text)?);
    if locked(question.matches).count(asker.peer) >= asker.standing.max_match_rules.into() {
        return Err(NotEveryday);
    }
    answer.effect = Some(Effect::Add(rule));
    Ok(())
}

fn remove_match(question: &Question<'_>, answer: &mut Answer) -> Result<(), NotEveryday> {
    let rule = plain_rule(question.text)?;
    if !locked(question.matches).has(question.asker.peer, &rule) {
        return Err(NotEveryday);
    }
    answer.effect = Some(Effect::Remove(rule));
    Ok(())
}

// ---- names, and who has them -------------------------------------------------------------------------

/// Who is behind a name.
enum Holder<'q> {
    Bus,
    Client(&'q Connection),
}

impl<'q> Question<'q> {
    /// Whose name it is that is asked about; None for nobody.
    fn holder(&self) -> Result<Option<Holder<'q>>, NotEveryday> {
        let name = self.text.as_bytes();
        if self.text == DRIVER_NAME {
            return Ok(Some(Holder::Bus));
        }
        match self.parties.find(name).and_then(|slot| self.parties.get(slot)) {
            Some(c) => Ok(Some(Holder::Client(c))),
            None if name.first() == Some(&b':') || self.parties.is_owned(name) => Err(NotEveryday),
            None => Ok(None),
        }
    }

    /// The same; that there is nobody Python has to say.
    fn somebody(&self) -> Result<Holder<'q>, NotEveryday> {
        self.holder()?.ok_or(NotEveryday)
    }

    /// What the kernel has said of who is behind the name.
    fn credentials(&self) -> Result<&'q Credentials, NotEveryday> {
        Ok(match self.somebody()? {
            Holder::Bus => &self.parties.bus.credentials,
            Holder::Client(c) => profile::of(c)?,
        })
    }
}

fn name_has_owner(question: &Question<'_>, answer: &mut Answer) -> Result<(), NotEveryday> {
    answer.put_number(question.holder()?.is_some().into());
    Ok(())
}

fn name_owner(question: &Question<'_>, answer: &mut Answer) -> Result<(), NotEveryday> {
    match question.somebody()? {
        Holder::Bus => answer.put_text(DRIVER_NAME),
        Holder::Client(c) => answer.put_text(&c.unique),
    }
    Ok(())
}

fn unix_user(question: &Question<'_>, answer: &mut Answer) -> Result<(), NotEveryday> {
    answer.put_number(profile::known(question.credentials()?.uid).ok_or(NotEveryday)?);
    Ok(())
}

fn process_id(question: &Question<'_>, answer: &mut Answer) -> Result<(), NotEveryday> {
    let pid = u32::try_from(question.credentials()?.pid).ok().filter(|pid| *pid != 0);
    answer.put_number(pid.ok_or(NotEveryday)?);
    Ok(())
}

fn credentials(question: &Question<'_>, answer: &mut Answer) -> Result<(), NotEveryday> {
    let credentials = question.credentials()?;
    let client = match question.somebody()? {
        Holder::Client(c) => Some(c),
        Holder::Bus => None,
    };
    let process = client.filter(|_| question.asker.takes_fds).and_then(|c| sockets::process(c.fd).ok());
    // where they run out, the last are for what everybody needs
    answer.fd = process.filter(|fd| (fd.as_raw_fd() as u64) < descriptors_below());
    profile::append(credentials, client.is_some(), answer.fd.is_some(), &mut answer.body);
    Ok(())
}
