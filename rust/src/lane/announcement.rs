//! What the bus tells of a unique name that comes or goes: NameOwnerChanged.
//!
//! Theory. It goes to those whose rules match and whose policy lets it in, with the bus's own number for each of them. All
//! of them have to be in the lane, with nothing waiting for them, or it is not everyday.
//!
//! Invariants. 1. To find out who hears of it has no effect that lasts.
//!
//! Not here: the names that others own (Python).

use super::express::NotEveryday;
use super::parties::Parties;
use super::poller::locked;
use super::transit::{Ahead, BUS, Marks, Size};
use super::verdict;
use super::world::Tables;
use crate::dbus::build::{Outgoing, append, put_text};
use crate::dbus::{Argument, DRIVER_NAME, DRIVER_PATH, NO_REPLY_EXPECTED, SIGNAL};
use crate::tables::MatchInput;

const MEMBER: &str = "NameOwnerChanged";
/// Where a header has its number.
const SERIAL_AT: usize = 8;

/// A name changes its owner; nobody is empty.
pub struct Change<'c> {
    pub name: &'c str,
    pub old: &'c str,
    pub new: &'c str,
    /// A peer that hears nothing any more.
    pub leaving: Option<u64>,
}

/// Slots of those who are to hear of it; each of them may be told at once, beside what is `ahead`, which grows.
pub fn hearers(
    change: &Change<'_>,
    parties: &mut Parties,
    tables: &mut Tables<'_>,
    ahead: &mut Ahead,
) -> Result<Vec<usize>, NotEveryday> {
    let mut peers = Vec::new();
    let mut input: MatchInput<'_> = MatchInput {
        kind: SIGNAL,
        sender: DRIVER_NAME,
        sender_names: &[],
        path: Some(DRIVER_PATH),
        interface: Some(DRIVER_NAME),
        member: Some(MEMBER),
        destination: None,
        destination_names: &[],
        arguments: &mut |out| out.extend([change.name, change.old, change.new].map(Argument::Text)),
    };
    locked(tables.matches).receivers(&mut input, &mut peers);
    peers.retain(|peer| Some(*peer) != change.leaving);
    let mut slots = Vec::with_capacity(peers.len());
    for peer in peers {
        let slot = parties.slot(peer).ok_or(NotEveryday)?;
        let reader = parties.get(slot).ok_or(NotEveryday)?;
        if verdict::may_hear_of_names(reader)? {
            if reader.has_reserved {
                return Err(NotEveryday);
            }
            slots.push(slot);
        }
    }
    if slots.is_empty() {
        return Ok(slots);
    }
    let size = Size { most: message(change).len(), n_fds: 0 };
    let before = *ahead;
    let may_pass = parties.may_pass_at_last(&mut tables.core, |parties, core| {
        *ahead = before;
        slots.iter().all(|&to| parties.may_pass(core, (BUS, to), size, Marks::NONE, ahead))
    });
    if may_pass { Ok(slots) } else { Err(NotEveryday) }
}

/// They are told, at the end of the lane's step.
pub fn put(change: &Change<'_>, slots: &[usize], parties: &mut Parties, tables: &mut Tables<'_>, now: f64) {
    if slots.is_empty() {
        return;
    }
    let message = message(change);
    let stamp = tables.core.draw_stamp();
    for &to in slots {
        let Some(serial) = parties.get_mut(to).map(|reader| reader.draw_serial()) else { continue };
        parties.append(&mut tables.core, (BUS, to), Some(stamp), now, &[], |_, out| {
            let at = out.len() + SERIAL_AT;
            out.extend_from_slice(&message);
            if let Some(number) = out.get_mut(at..at + 4) {
                number.copy_from_slice(&serial.to_le_bytes());
            }
            true
        });
    }
}

/// The signal, with the number 1.
fn message(change: &Change<'_>) -> Vec<u8> {
    let mut body = Vec::with_capacity(64);
    for text in [change.name, change.old, change.new] {
        body.resize(body.len().next_multiple_of(4), 0);
        put_text(text, &mut body);
    }
    let given = Outgoing {
        kind: SIGNAL,
        flags: NO_REPLY_EXPECTED,
        serial: 1,
        body_length: body.len() as u32,
        path: Some(DRIVER_PATH),
        interface: Some(DRIVER_NAME),
        member: Some(MEMBER),
        sender: Some(DRIVER_NAME),
        signature: "sss",
        ..Outgoing::default()
    };
    let mut out = Vec::with_capacity(256);
    append(&given, &mut out);
    out.extend_from_slice(&body);
    out
}
