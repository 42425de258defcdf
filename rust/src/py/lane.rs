//! `DBusLane`: the express lane of D-Bus connections, as the Switch in Python sees it.

use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, Weak};

use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::arguments::{credentials_of, limits_of};
use super::core::Core;
use super::guests::{Arrivals, GuestTuple, told};
use super::locking::lock;
use super::policy::ClientPolicy;
use super::poller::Poller;
use super::tables::{MatchIndex, ReplyTable};
use crate::core::Usage;
use crate::dbus::sasl::Greeting;
use crate::lane;
use crate::lane::connection::{Connection, End, Handed, Standing};
use crate::lane::dbus::{self, DbusLane};
use crate::lane::door::{Known, Room};
use crate::lane::express::Climate;
use crate::lane::parties::Bus;
use crate::lane::poller::locked;
use crate::lane::world::World;
use crate::sys::monotonic;

/// Serves connections within the wait of a `Poller`.
#[pyclass(frozen, name = "DBusLane", module = "bus1._native")]
pub struct PyDbusLane {
    poller: Weak<lane::Poller>,
    number: usize,
    inner: Arc<Mutex<DbusLane>>,
}

/// Bytes, descriptors, and how the stream ended.
pub(super) type Taken<'py> = (Bound<'py, PyBytes>, Vec<RawFd>, &'static str);
/// Bytes, descriptors, how much of the first queued message is written, the bus's next number for it.
type Left<'py> = (Bound<'py, PyBytes>, Vec<RawFd>, usize, u32);
type Counts = (u64, u64, u64);
fn counts(usage: Usage) -> Counts {
    (usage.bytes, usage.messages, usage.fds)
}

/// Of messages, of what comes in, and of what goes out.
type FdLimits = (usize, usize, usize);
/// (sends_all, receives_all, takes_fds, max_message_size, (max_message_unix_fds, max_incoming_unix_fds, max_outgoing_unix_fds),
/// max_incoming_bytes, max_outgoing_bytes, max_replies, max_match_rules, policy)
type StandingTuple<'py> =
    (bool, bool, bool, usize, FdLimits, u64, u64, usize, u64, Option<Bound<'py, ClientPolicy>>);
/// Well-known names that a client is primary owner of, in order of acquisition; those that it owns or waits for.
type NameLists = (Vec<String>, Vec<String>);

/// The standing, and whether descriptors may be passed.
fn standing(given: StandingTuple<'_>) -> (Standing, bool) {
    let (
        sends_all,
        receives_all,
        takes_fds,
        max_message_size,
        (max_message_unix_fds, max_incoming_unix_fds, max_outgoing_unix_fds),
        incoming,
        outgoing,
        replies,
        match_rules,
        policy,
    ) = given;
    let standing = Standing {
        sends_all,
        receives_all,
        policy: policy.map(|policy| policy.get().shared()),
        max_message_size,
        max_message_unix_fds,
        max_incoming_unix_fds,
        max_outgoing_unix_fds,
        max_incoming_bytes: incoming,
        max_outgoing_bytes: outgoing,
        max_replies: replies,
        max_match_rules: match_rules.try_into().unwrap_or(u32::MAX),
    };
    (standing, takes_fds)
}

/// What is handed over, for Python.
pub(super) fn taken<'py>(py: Python<'py>, handed: &mut Handed) -> PyResult<Taken<'py>> {
    let end = match handed.end {
        End::Open => "",
        End::Ended => "ended",
        End::Failed => "failed",
        End::Truncated => "truncated",
        End::Exhausted => "exhausted",
        End::Short => "short",
        End::Unwatched => "unwatched",
    };
    Ok((bytes_of(py, &handed.data)?, std::mem::take(&mut handed.fds), end))
}

/// A copy for Python. MemoryError, which `PyBytes::new` does not know.
fn bytes_of<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    PyBytes::new_with(py, bytes.len(), |room| {
        room.copy_from_slice(bytes);
        Ok(())
    })
}

impl PyDbusLane {
    fn with<T>(&self, py: Python<'_>, peer: u64, action: impl FnOnce(&mut Connection) -> T) -> Option<T> {
        let mut lane = lock(py, &self.inner);
        let slot = lane.parties.slot(peer)?;
        lane.parties.get_mut(slot).map(action)
    }
}

#[pymethods]
impl PyDbusLane {
    /// A lane in `poller`, on these tables; nobody has joined yet.
    #[new]
    fn new(
        poller: &Poller,
        core: &Core,
        matches: &MatchIndex,
        replies: &ReplyTable,
        bus: (u64, String, Bound<'_, PyAny>),
    ) -> PyResult<Self> {
        let (peer, id, credentials) = bus;
        let bus = Bus { peer, id, credentials: Arc::new(credentials_of(&credentials)?) };
        let world = World { core: core.shared(), matches: matches.shared(), replies: replies.shared() };
        let inner = Arc::new(Mutex::new(DbusLane::new(world, bus)));
        let poller = poller.shared()?;
        let number = poller.add_lane(Arc::clone(&inner) as Arc<Mutex<dyn lane::Lane>>);
        Ok(Self { poller: Arc::downgrade(&poller), number, inner })
    }

    /// The connection is served here from now on; nothing of it may be registered with the poller.
    #[allow(clippy::too_many_arguments)]
    fn join(
        &self,
        py: Python<'_>,
        fd: RawFd,
        peer: u64,
        unique: &str,
        credentials: &Bound<'_, PyAny>,
        given: StandingTuple<'_>,
        names: NameLists,
        native_calls: u32,
        has_followers: bool,
        offset: usize,
        serial: (u32, bool),
    ) -> PyResult<()> {
        let credentials = Arc::new(credentials_of(credentials)?);
        let (standing, takes_fds) = standing(given);
        let standing = lock(py, &self.inner).parties.shared(standing);
        let mut connection = Connection::new(fd, peer, unique, credentials, standing);
        (connection.takes_fds, connection.native_calls) = (takes_fds, native_calls);
        connection.has_followers = has_followers;
        connection.change_held(|held| {
            held.names = names.0.into_iter().map(Into::into).collect();
            held.claims = names.1.into_iter().map(Into::into).collect();
        });
        connection.output.offset = offset;
        (connection.next_serial, connection.has_reserved) = serial;
        lock(py, &self.inner).join(Box::new(connection));
        if let Some(poller) = self.poller.upgrade() {
            py.detach(|| poller.join(fd, self.number));
        }
        Ok(())
    }

    /// It is Python's again. MemoryError: so it is, but what has come of it is lost.
    fn leave<'py>(&self, py: Python<'py>, peer: u64) -> PyResult<Option<Left<'py>>> {
        let Some(fd) = self.with(py, peer, |c| c.fd) else {
            return Ok(None);
        };
        let poller = self.poller.upgrade();
        if let Some(poller) = &poller {
            py.detach(|| poller.leave(fd));
        }
        let epoll = poller.as_ref().map(|poller| poller.epoll());
        let Some((mut handed, offset, serial)) = lock(py, &self.inner).leave(epoll, peer) else {
            return Ok(None);
        };
        if handed.end == End::Exhausted {
            return Err(PyMemoryError::new_err(()));
        }
        Ok(Some((bytes_of(py, &handed.data)?, std::mem::take(&mut handed.fds), offset, serial)))
    }

    /// The bus's number for a message to the client.
    fn draw_serial(&self, py: Python<'_>, peer: u64) -> Option<u32> {
        self.with(py, peer, Connection::draw_serial)
    }

    /// Native peers have called it, and such numbers are theirs.
    fn set_reserved(&self, py: Python<'_>, peer: u64) {
        self.with(py, peer, |c| c.has_reserved = true);
    }

    /// What is handed over: (bytes, descriptors, how it ended: "", "ended", "failed", "truncated", "exhausted", "short",
    /// "unwatched"); None if nothing is.
    fn take<'py>(&self, py: Python<'py>, peer: u64) -> PyResult<Option<Taken<'py>>> {
        let Some(mut handed) = lock(py, &self.inner).take(peer) else {
            return Ok(None);
        };
        taken(py, &mut handed).map(Some)
    }

    /// The input is the lane's again: Python has nothing of it in hand.
    fn give_back(&self, py: Python<'_>, peer: u64, native_calls: u32, has_reserved: bool) {
        lock(py, &self.inner).give_back(peer, native_calls, has_reserved);
    }

    /// Whether the lane reads the socket.
    fn has_input(&self, py: Python<'_>, peer: u64) -> bool {
        self.with(py, peer, |c| c.input.is_ours).unwrap_or(false)
    }

    /// What Python waits for at this socket.
    fn want(&self, py: Python<'_>, peer: u64, events: u32) {
        let mut lane = lock(py, &self.inner);
        let Some(slot) = lane.parties.slot(peer) else {
            return;
        };
        if let Some(c) = lane.parties.get_mut(slot)
            && (c.wanted != events || !c.input.is_ours)
        {
            // what has been handed over is perhaps still watched for the lane
            c.wanted = events;
            lane.parties.mark_stale(slot);
        }
    }

    /// What the client says is being dropped: it is read when nobody else has anything.
    fn set_late(&self, py: Python<'_>, peer: u64, comes_last: bool) {
        self.with(py, peer, |c| c.comes_last = comes_last);
    }

    /// Write now what is queued for anybody; the peers for which Python has to go on.
    fn flush_all(&self, py: Python<'_>) -> Vec<u64> {
        py.detach(|| locked(&self.inner).flush_all(monotonic()))
    }

    /// Something was queued for it, or may be written again: it is written in the next wait.
    fn wake(&self, py: Python<'_>, peer: u64) {
        let mut lane = lock(py, &self.inner);
        if let Some(slot) = lane.parties.slot(peer) {
            lane.parties.mark_dirty(slot);
        }
    }

    /// Write now what is queued; True if Python has to go on.
    fn flush(&self, py: Python<'_>, peer: u64) -> bool {
        py.detach(|| locked(&self.inner).flush(peer, monotonic()))
    }

    /// How much of the first queued message is written.
    fn offset(&self, py: Python<'_>, peer: u64) -> usize {
        self.with(py, peer, |c| c.output.offset).unwrap_or(0)
    }

    /// Python has written: so much of the first queued message; `is_held` while something else goes before the queue.
    fn set_offset(&self, py: Python<'_>, peer: u64, offset: usize, is_held: bool) {
        self.with(py, peer, |c| {
            c.output.offset = offset;
            c.output.is_held = is_held;
        });
    }

    /// Other rights and limits from now on.
    fn set_standing(&self, py: Python<'_>, peer: u64, given: StandingTuple<'_>) {
        let (standing, takes_fds) = standing(given);
        lock(py, &self.inner).parties.set_standing(peer, standing, takes_fds);
    }

    /// Native peers follow its signals, or do no longer.
    fn set_followers(&self, py: Python<'_>, peer: u64, has_followers: bool) {
        self.with(py, peer, |c| c.has_followers = has_followers);
    }

    /// Somebody waits for its queue to move, or does no longer.
    fn set_awaited(&self, py: Python<'_>, peer: u64, is_awaited: bool) {
        self.with(py, peer, |c| c.is_awaited = is_awaited);
    }

    /// The well-known name is this peer's, or nobody's.
    fn own(&self, py: Python<'_>, name: &str, peer: Option<u64>) {
        lock(py, &self.inner).parties.own(name, peer);
    }

    /// The peer owns the name or waits for it, or does no longer.
    fn claim(&self, py: Python<'_>, peer: u64, name: &str, is_held: bool) {
        lock(py, &self.inner).parties.claim(peer, name, is_held);
    }

    /// What holds for everybody until the next wait.
    fn set_climate(
        &self,
        py: Python<'_>,
        is_unwatched: bool,
        has_eavesdroppers: bool,
        is_followed: bool,
        limits_replies: bool,
        is_closing: bool,
    ) {
        lock(py, &self.inner).climate =
            Climate { is_unwatched, has_eavesdroppers, is_followed, limits_replies, is_closing };
    }

    /// A listening socket, which Python watches, is one of the bus's doors, or no longer: who knocks is the lane's first.
    fn set_open(&self, py: Python<'_>, fd: RawFd, is_open: bool) {
        lock(py, &self.inner).parties.doors.set_open(fd, is_open);
        if let Some(poller) = self.poller.upgrade() {
            py.detach(|| if is_open { poller.join(fd, self.number) } else { poller.leave(fd) });
        }
    }

    /// What is said to who is let in, and to who asks for the mechanisms.
    fn set_greeting(&self, py: Python<'_>, welcome: &[u8], offer: &[u8]) {
        lock(py, &self.inner).parties.doors.greeting =
            Greeting { welcome: welcome.into(), offer: offer.into() };
    }

    /// Clients of this user are let in, and this holds for each of them.
    fn know(
        &self,
        py: Python<'_>,
        user: (u32, u32, Vec<u32>),
        given: StandingTuple<'_>,
        limits: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (limits, (standing, _)) = (limits_of(limits)?, standing(given));
        let parties = &mut lock(py, &self.inner).parties;
        let standing = parties.shared(standing);
        parties.doors.know(user, Known { standing, limits });
        Ok(())
    }

    /// What holds for users has changed.
    fn forget_users(&self, py: Python<'_>) {
        lock(py, &self.inner).parties.doors.forget_users();
    }

    /// So many guests may be there until the next wait is over, and so many of them without a name; the number of the next
    /// unique name.
    fn admit(&self, py: Python<'_>, guests: usize, nameless: usize, next_number: u64) {
        lock(py, &self.inner).parties.doors.admit(Room { guests, nameless }, next_number);
    }

    /// The guests of whom something is Python's after a wait, in order: from now on it knows them, and has their sockets.
    fn take_guests<'py>(&self, py: Python<'py>) -> PyResult<Arrivals<'py>> {
        let poller = self.poller.upgrade();
        let mut lane = lock(py, &self.inner);
        let guests = lane.take_guests(poller.as_ref().map(|poller| poller.epoll()));
        let doors = &mut lane.parties.doors;
        let strangers = std::mem::take(&mut doors.strangers);
        let (named, next_number) = (doors.named(), doors.next_number);
        drop(lane);
        if let Some(poller) = poller {
            let left = guests.iter().filter(|guest| guest.rest.is_some());
            py.detach(|| left.for_each(|guest| poller.leave(guest.fd)));
        }
        let now = monotonic();
        let told = guests.into_iter().map(|guest| told(py, guest, now)).collect::<PyResult<_>>()?;
        Ok((told, strangers, named, next_number))
    }

    /// Who has this number, if it is a guest: from now on Python knows it, and has its socket.
    fn take_guest<'py>(&self, py: Python<'py>, peer: u64) -> PyResult<Option<GuestTuple<'py>>> {
        let guest = lock(py, &self.inner).take_guest(None, peer);
        guest.map(|guest| told(py, guest, monotonic())).transpose()
    }

    /// Whom Python could not meet is a guest as before.
    fn put_back(&self, py: Python<'_>, peer: u64) {
        lock(py, &self.inner).put_back(peer);
    }

    /// The guest of this number, if there is one, hears and says nothing more.
    fn hang_up(&self, py: Python<'_>, peer: u64) {
        lock(py, &self.inner).hang_up(peer);
    }

    /// The numbers of all guests, in order of arrival.
    fn guests(&self, py: Python<'_>) -> Vec<u64> {
        lock(py, &self.inner).guests()
    }

    /// The unique names of all guests, in no order.
    fn guest_names(&self, py: Python<'_>) -> Vec<String> {
        lock(py, &self.inner).parties.guests().map(|guest| guest.unique.to_string()).collect()
    }

    /// How many guests there are.
    fn n_guests(&self, py: Python<'_>) -> usize {
        lock(py, &self.inner).parties.doors.named().0
    }

    /// How many guests are of this user.
    fn n_guests_of(&self, py: Python<'_>, uid: i64) -> usize {
        lock(py, &self.inner).parties.guests().filter(|guest| guest.credentials.uid == uid).count()
    }

    /// The guest with this unique name.
    fn guest_named(&self, py: Python<'_>, unique: &str) -> Option<u64> {
        let lane = lock(py, &self.inner);
        let slot = lane.parties.find(unique.as_bytes())?;
        lane.parties.get(slot).filter(|guest| guest.is_guest).map(|guest| guest.peer)
    }

    /// Descriptors that are still in queues, and who has sent them: from now on Python closes them.
    fn take_fds(&self, py: Python<'_>) -> Vec<(RawFd, u64)> {
        lock(py, &self.inner).parties.fds.drain().collect()
    }

    /// Peers whose queues have moved, and when last: each once since it was last asked.
    fn take_moved(&self, py: Python<'_>) -> Vec<(u64, f64)> {
        let mut lane = lock(py, &self.inner);
        let moved = std::mem::take(&mut lane.parties.moved);
        let mut told = Vec::with_capacity(moved.len());
        for peer in moved {
            if let Some(c) = lane.parties.slot(peer).and_then(|slot| lane.parties.get_mut(slot)) {
                c.is_noted = false;
                told.push((peer, c.moved));
            }
        }
        told
    }

    /// Optional messages that found no room: sender, reader, header.
    fn take_lost<'py>(&self, py: Python<'py>) -> Vec<(u64, u64, Bound<'py, PyBytes>)> {
        let lost = std::mem::take(&mut lock(py, &self.inner).parties.lost);
        lost.into_iter().map(|(sender, reader, header)| (sender, reader, PyBytes::new(py, &header))).collect()
    }

    /// For statistics: what has come and is not carried out, the most that ever waited so, and for it; None if unknown.
    fn usage(&self, py: Python<'_>, peer: u64) -> Option<(Counts, Counts, Counts)> {
        self.with(py, peer, |c| {
            let (now, peak) = dbus::usage(c);
            (counts(now), counts(peak), counts(c.output.peak()))
        })
    }
}
