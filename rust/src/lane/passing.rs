//! Everyday messages that pass without being queued, for one reader or for many.
//!
//! Theory. Whether each of the readers may have the message at once is asked first (`transit`); then it is stamped where it
//! will be written from. If one of them may not, nothing has happened, and all get it through Core.
//!
//! Not here: what is everyday (`express`), writing (`transit`).

use super::express::{Message, NotEveryday, Post};
use super::parties::Parties;
use super::transit::{ALL, Ahead, Marks, Size};
use super::world::Tables;
use crate::core::Core;
use crate::dbus::header::Header;
use crate::dbus::stamp::{MARGIN, stamp};

/// The message passes without being queued, if it may; false, and nothing has happened, if not.
pub(super) fn pass(
    post: &Post<'_>,
    parties: &mut Parties,
    tables: &mut Tables<'_>,
    to: usize,
    most: usize,
    marks: Marks,
) -> bool {
    let Message::Borrowed(message) = post.message else {
        return false;
    };
    let ways = (post.from, to);
    let size = Size { most, n_fds: post.fds.len() };
    let core = &mut tables.core;
    parties.may_pass_at_last(core, |parties, core| {
        parties.may_pass(core, ways, size, marks, &mut Ahead::default())
    }) && parties.append(core, ways, None, post.now, post.fds, |parties, out| {
        put_stamped(message, post.header, parties, post.from, most, out)
    })
}

/// Appends the message as it is forwarded; false, and what is appended counts for nothing, if it has more than `most` bytes.
fn put_stamped(
    message: &[u8],
    header: &Header,
    parties: &Parties,
    from: usize,
    most: usize,
    out: &mut Vec<u8>,
) -> bool {
    let before = out.len();
    let sender = parties.get(from);
    if sender.is_none_or(|sender| stamp(message, header, sender.unique.as_bytes(), out).is_err()) {
        return false;
    }
    out.extend_from_slice(&message[header.header_length..]);
    out.len() - before <= most
}

/// A signal passes to all its receivers without being queued; false, and nothing has happened, if not to each of them.
pub(super) fn pass_to_all(
    post: &Post<'_>,
    parties: &mut Parties,
    tables: &mut Tables<'_>,
    peers: &[u64],
) -> Result<bool, NotEveryday> {
    let Message::Borrowed(message) = post.message else {
        return Ok(false);
    };
    let mut slots = std::mem::take(&mut parties.transit.receivers);
    let most = message.len() + parties.get(post.from).ok_or(NotEveryday)?.unique.len() + MARGIN;
    let core = &mut tables.core;
    // those who surely may not cost the others little
    let has_passed = are_free(most, parties, peers, &mut slots)
        && parties
            .may_pass_at_last(core, |parties, core| may_pass_to_all(post.from, most, parties, core, &slots))
        && put_to_all(post, message, most, parties, core, &slots);
    parties.transit.receivers = slots;
    Ok(has_passed)
}

/// Everybody takes bytes, and together they are not too many; their slots.
fn are_free(most: usize, parties: &Parties, peers: &[u64], slots: &mut Vec<usize>) -> bool {
    slots.clear();
    let is_free = |peer: &u64| {
        let slot = parties.slot(*peer)?;
        let reader = parties.get(slot)?;
        reader.output.is_free().then_some(slot)
    };
    slots.extend(peers.iter().map_while(is_free));
    slots.len() == peers.len() && (most as u64).saturating_mul(peers.len() as u64) < ALL
}

fn may_pass_to_all(
    from: usize,
    most: usize,
    parties: &mut Parties,
    core: &mut Core,
    slots: &[usize],
) -> bool {
    let mut ahead = Ahead::default();
    slots.iter().all(|&to| {
        let (Some(sender), Some(reader)) = (parties.get(from), parties.get(to)) else {
            return false;
        };
        let marks = sender.marks(reader);
        parties.may_pass(core, (from, to), Size { most, n_fds: 0 }, marks, &mut ahead)
    })
}

fn put_to_all(
    post: &Post<'_>,
    message: &[u8],
    most: usize,
    parties: &mut Parties,
    core: &mut Core,
    slots: &[usize],
) -> bool {
    let mut stamped = std::mem::take(&mut parties.transit.copy);
    stamped.clear();
    let is_done = stamped.try_reserve(most).is_ok()
        && put_stamped(message, post.header, parties, post.from, most, &mut stamped);
    if is_done {
        let stamp = core.draw_stamp();
        for &to in slots {
            parties.append(core, (post.from, to), Some(stamp), post.now, &[], |_, out| {
                out.extend_from_slice(&stamped);
                true
            });
        }
    }
    parties.transit.copy = stamped;
    is_done
}
