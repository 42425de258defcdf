//! What Python is told of guests: clients of the lane of which it has not known.

use std::os::fd::RawFd;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::lane::{Taken, taken};
use crate::lane::door::Guest;

/// What the kernel says of who has connected: uid, gid, pid, label, groups.
type Who<'py> = (i64, i64, i64, Option<Bound<'py, PyBytes>>, Vec<i64>);
/// Socket, peer, who it is, unique name, whether it takes descriptors, how many seconds ago it came (of one with a name: 0), when
/// its queue moved last (0: never).
type About<'py> = (RawFd, u64, Who<'py>, String, bool, f64, f64);
/// The lines that it has said and that are answered, what of the answers is not written, the bus's next number for it, and what
/// else it has said.
type Rest<'py> = (Bound<'py, PyBytes>, Bound<'py, PyBytes>, u32, Taken<'py>);
/// One guest; what is Python's if it has left the lane.
pub type GuestTuple<'py> = (About<'py>, Option<Rest<'py>>);
/// Guests, sockets of strangers, how many guests that stay have names, and the most that had at the same time, the number of the
/// next name.
pub type Arrivals<'py> = (Vec<GuestTuple<'py>>, Vec<RawFd>, (usize, usize), u64);

/// One guest.
pub fn told<'py>(py: Python<'py>, mut guest: Guest, now: f64) -> PyResult<GuestTuple<'py>> {
    let who = &guest.credentials;
    let label = who.secctx.as_ref().map(|label| PyBytes::new(py, label));
    let who = (who.uid, who.gid, who.pid, label, who.groups.clone());
    let age = guest.since.map_or(0.0, |since| now - since);
    let about = (guest.fd, guest.peer, who, guest.unique.into_string(), guest.takes_fds, age, guest.moved);
    let Some(handed) = &mut guest.rest else {
        return Ok((about, None));
    };
    let (said, unsent) = (PyBytes::new(py, &guest.said), PyBytes::new(py, &guest.unsent));
    Ok((about, Some((said, unsent, guest.next_serial, taken(py, handed)?))))
}
