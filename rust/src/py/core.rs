//! `Core`: the bus1 state machine, with the interface of `bus1.core.api.CoreApi`.
//!
//! Theory. Arguments are converted, Core is locked for one command, and the answer becomes Python's once it is unlocked.
//!
//! Invariants. 1. No object of Python is made while Core is locked.
//!
//! Not here: what commands do (`crate::core`), lanes.

use std::sync::{Arc, Mutex};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use super::answers::{Classes, Seen, plain};
use super::arguments::{
    Fds, KnownCredentials, Number, Numbers, Peer, about, invalid, limits_of, parcels_of, payload_of, view_of,
};
use super::locking::{Guard, locked};
use super::memory::{memory_of, raised};
use super::resident::Residents;
use crate::core::{self, Error, KEEP, Kind, NO_LIMIT, Request, Result, Setup, WANT_SECCTX};

/// The bus1 state machine; see `bus1.core.api.CoreApi`.
#[pyclass(frozen, module = "bus1._native")]
pub struct Core {
    inner: Arc<Mutex<core::Core>>,
    known: KnownCredentials,
    /// Peers that carry out their everyday operations themselves.
    pub residents: Arc<Residents>,
}

impl Core {
    /// For the lanes.
    pub fn shared(&self) -> Arc<Mutex<core::Core>> {
        Arc::clone(&self.inner)
    }

    fn locked(&self, py: Python<'_>) -> PyResult<Guard<'_, core::Core>> {
        locked(py, &self.inner)
    }

    /// One command.
    fn run<T>(&self, py: Python<'_>, command: impl FnOnce(&mut core::Core) -> Result<T>) -> PyResult<T> {
        let result = command(&mut *self.locked(py)?);
        result.map_err(|error| raised(py, error))
    }

    /// A look-up of an existing peer.
    fn look<T>(&self, py: Python<'_>, peer: u64, look: impl FnOnce(&core::Core) -> T) -> PyResult<T> {
        self.run(py, |core| core.check_peer(peer).map(|()| look(core)))
    }

    fn check(&self, py: Python<'_>, peer: u64) -> PyResult<()> {
        self.look(py, peer, |_| ())
    }
}

#[pymethods]
impl Core {
    #[new]
    #[pyo3(signature = (limits=None))]
    fn new(py: Python<'_>, limits: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        Classes::get(py)?;
        let limits = limits.map(limits_of).transpose()?.unwrap_or_default();
        Ok(Core {
            inner: Arc::new(Mutex::new(core::Core::new(limits))),
            known: KnownCredentials::new(),
            residents: Arc::default(),
        })
    }

    // ---- the page's operations -------------------------------------------------------------------

    #[pyo3(signature = (uid, memory=None, *, limits=None, overhead=0, view=None))]
    fn peer_new(
        &self,
        py: Python<'_>,
        uid: i64,
        memory: Option<&Bound<'_, PyAny>>,
        limits: Option<&Bound<'_, PyAny>>,
        overhead: u64,
        view: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<u64> {
        let setup = Setup {
            limits: limits.map(limits_of).transpose()?,
            overhead,
            view: view.map(view_of).transpose()?,
        };
        let memory = memory_of(memory)?;
        Ok(self.locked(py)?.peer_new(uid, memory, setup))
    }

    fn peer_disconnect(&self, py: Python<'_>, peer: Peer) -> PyResult<()> {
        self.run(py, |core| core.peer_disconnect(peer.0))
    }

    fn peer_query<'py>(&self, py: Python<'py>, peer: Peer) -> PyResult<Bound<'py, PyAny>> {
        let state = self.run(py, |core| core.peer_query(peer.0))?;
        Classes::get(py)?.peer_state(py, state)
    }

    #[pyo3(signature = (peer, flags=None, peer_flags=None, *, max_slices=None, max_handles=None,
                        max_inflight_bytes=None, max_inflight_fds=None))]
    #[expect(clippy::too_many_arguments, reason = "those of the page")]
    fn peer_reset(
        &self,
        py: Python<'_>,
        peer: Peer,
        flags: Option<Number<'_>>,
        peer_flags: Option<Number<'_>>,
        max_slices: Option<Number<'_>>,
        max_handles: Option<Number<'_>>,
        max_inflight_bytes: Option<Number<'_>>,
        max_inflight_fds: Option<Number<'_>>,
    ) -> PyResult<()> {
        let or = |number: Option<Number<'_>>, value| {
            number.map_or((value, false), |n| (n.value, n.wild.is_some()))
        };
        let texts: Vec<String> = [&max_slices, &max_handles, &max_inflight_bytes, &max_inflight_fds]
            .map(|limit| limit.as_ref().map_or_else(|| KEEP.to_string(), Number::text))
            .into();
        let flags_text = flags.as_ref().map(Number::hex).unwrap_or_default();
        let peer_flags_text = peer_flags.as_ref().map(Number::hex).unwrap_or_default();
        let (flags, is_wild) = or(flags, 0);
        if is_wild {
            self.check(py, peer.0)?;
            return Err(invalid(py, format!("reset flags {flags_text}")));
        }
        let (mut peer_flags, is_wild) = or(peer_flags, KEEP);
        if is_wild {
            peer_flags = WANT_SECCTX + 1;
        }
        let limits =
            [max_slices, max_handles, max_inflight_bytes, max_inflight_fds].map(|limit| or(limit, KEEP));
        // a wild limit is as wrong as this one
        let maxima = limits.map(|(limit, is_wild)| if is_wild { KEEP - 1 } else { limit });
        let result = self.locked(py)?.peer_reset(peer.0, flags, peer_flags, maxima);
        result.map_err(|error| {
            let is_about = |what: &str| error.kind == Kind::InvalidArgument && error.text.starts_with(what);
            if is_about("peer flags") {
                return invalid(py, format!("peer flags {peer_flags_text}"));
            }
            if is_about("limits") {
                return invalid(py, format!("limits ({})", texts.join(", ")));
            }
            raised(py, error)
        })
    }

    fn handle_transfer(
        &self,
        py: Python<'_>,
        source: Peer,
        handle: Number<'_>,
        destination: &Bound<'_, PyAny>,
    ) -> PyResult<u64> {
        self.check(py, source.0)?;
        let destination: Peer = destination.extract()?;
        let wild = handle.wild.as_ref().map(|_| handle.hex());
        self.run(py, |core| {
            let result = core.handle_transfer(source.0, handle.value, destination.0);
            result.map_err(|error| about(error, wild.as_ref()))
        })
    }

    fn handle_release(&self, py: Python<'_>, peer: Peer, handle: Number<'_>) -> PyResult<()> {
        let wild = handle.wild.as_ref().map(|_| handle.hex());
        self.run(py, |core| {
            core.handle_release(peer.0, handle.value).map_err(|error| about(error, wild.as_ref()))
        })
    }

    #[pyo3(signature = (peer, nodes, flags=None))]
    fn node_destroy(
        &self,
        py: Python<'_>,
        peer: Peer,
        nodes: Numbers,
        flags: Option<Number<'_>>,
    ) -> PyResult<()> {
        if let Some(flags) = flags.as_ref().filter(|flags| flags.wild.is_some()) {
            self.check(py, peer.0)?;
            return Err(invalid(py, format!("destroy flags {}", flags.hex())));
        }
        let flags = flags.map_or(0, |flags| flags.value);
        self.run(py, |core| {
            let result = core.node_destroy(peer.0, &nodes.values, flags);
            result.map_err(|error| about(error, nodes.wild.as_ref()))
        })
    }

    #[pyo3(signature = (peer, offset, *, serial=None, unmapped=true))]
    fn slice_release(
        &self,
        py: Python<'_>,
        peer: Peer,
        offset: Number<'_>,
        serial: Option<Number<'_>>,
        unmapped: bool,
    ) -> PyResult<()> {
        let (value, text) = serial.map_or((0, None), |serial| {
            let text = serial.wild.is_some().then(|| serial.text());
            (serial.value, text)
        });
        let wild = offset.wild.is_some().then(|| offset.text());
        self.run(py, |core| {
            let result = core.slice_release(peer.0, offset.value, value, unmapped);
            result.map_err(|error| match (error.kind, &wild, &text) {
                (Kind::NoSuchHandle, Some(wild), _) => {
                    Error::new(error.kind, format!("no published slice at {wild}"))
                }
                (Kind::NoSuchHandle, None, Some(text)) => Error::new(
                    error.kind,
                    error.text.replace(&format!("not {value}"), &format!("not {text}")),
                ),
                _ => error,
            })
        })
    }

    fn segment_unmapped(&self, py: Python<'_>, peer: Peer, generation: Number<'_>) -> PyResult<()> {
        let text = generation.wild.is_some().then(|| generation.text());
        self.run(py, |core| {
            let result = core.segment_unmapped(peer.0, generation.value);
            result.map_err(|error| match text {
                Some(text) if error.kind == Kind::NoSuchHandle => {
                    Error::new(error.kind, format!("no retired segment {text}"))
                }
                _ => error,
            })
        })
    }

    #[pyo3(signature = (peer, destinations, parts=None, handles=Numbers::default(), fds=Fds::default(), *,
                        flags=None, optional=Numbers::default(), credentials))]
    #[expect(clippy::too_many_arguments, reason = "those of the page")]
    fn send(
        &self,
        py: Python<'_>,
        peer: Peer,
        destinations: Numbers,
        parts: Option<&Bound<'_, PyAny>>,
        handles: Numbers,
        fds: Fds,
        flags: Option<Number<'_>>,
        optional: Numbers,
        credentials: &Bound<'_, PyAny>,
    ) -> PyResult<Vec<i32>> {
        let flags = self.send_flags(py, &peer, flags)?;
        let payload = match parts {
            Some(parts) => payload_of(parts)?,
            None => payload_of(PyTuple::empty(py).as_any())?,
        };
        let request = Request {
            destinations: &destinations.values,
            handles: &handles.values,
            fds: &fds.0,
            flags,
            optional: &optional.values,
        };
        let who = self.known.of(credentials)?;
        self.run(py, |core| {
            let result = core.send(peer.0, &request, &payload, &who);
            result.map_err(|error| about(error, handles.wild.as_ref().or(destinations.wild.as_ref())))
        })
    }

    #[pyo3(signature = (peer, flags=None, max_offset=None))]
    fn recv<'py>(
        &self,
        py: Python<'py>,
        peer: Peer,
        flags: Option<Number<'_>>,
        max_offset: Option<Number<'_>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if let Some(flags) = flags.as_ref().filter(|flags| flags.wild.is_some()) {
            self.check(py, peer.0)?;
            return Err(invalid(py, format!("receive flags {}", flags.hex())));
        }
        let flags = flags.map_or(0, |flags| flags.value);
        let max_offset = max_offset.map_or(NO_LIMIT, |number| number.clamped());
        let message = self.run(py, |core| core.recv(peer.0, flags, max_offset))?;
        Classes::get(py)?.message(py, message)
    }

    fn snapshot<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let snapshot = self.locked(py)?.snapshot();
        plain(py, &snapshot)
    }

    // ---- the privileged verb of the Switch -------------------------------------------------------

    #[pyo3(signature = (sender, parcels, fds=Fds::default(), *, credentials))]
    fn route(
        &self,
        py: Python<'_>,
        sender: Number<'_>,
        parcels: &Bound<'_, PyAny>,
        fds: Fds,
        credentials: &Bound<'_, PyAny>,
    ) -> PyResult<Vec<i32>> {
        let (parcels, mut aliases) = parcels_of(parcels)?;
        if sender.wild.is_some() {
            let said = format!("peer {} is gone", sender.value);
            aliases.push((said, format!("peer {} is gone", sender.text())));
        }
        let who = self.known.of(credentials)?;
        self.run(py, |core| {
            let result = core.route(sender.value, &parcels, &fds.0, &who);
            result.map_err(|error| match aliases.into_iter().find(|(said, _)| *said == error.text) {
                Some((_, text)) => Error::new(error.kind, text),
                None => error,
            })
        })
    }

    // ---- look-ups --------------------------------------------------------------------------------

    #[pyo3(signature = (peer, limit=1))]
    fn ahead<'py>(&self, py: Python<'py>, peer: Peer, limit: usize) -> PyResult<Bound<'py, PyList>> {
        let seen = self.run(py, |core| {
            core.check_peer(peer.0)?;
            let mut seen: Vec<Seen> = core.look_ahead(peer.0).take(limit).map(Seen::from).collect();
            seen.iter_mut().try_for_each(|seen| seen.complete(core, peer.0))?;
            Ok(seen)
        })?;
        let classes = Classes::get(py)?;
        let list = PyList::empty(py);
        for entry in seen {
            list.append(classes.ahead(py, entry)?)?;
        }
        Ok(list)
    }

    fn seed_ahead<'py>(&self, py: Python<'py>, peer: Peer) -> PyResult<Option<Bound<'py, PyAny>>> {
        let seen = self.run(py, |core| {
            let Some(mut seen) = core.seed_ahead(peer.0)?.map(Seen::from) else {
                return Ok(None);
            };
            seen.complete(core, peer.0)?;
            Ok(Some(seen))
        })?;
        let classes = Classes::get(py)?;
        seen.map(|seen| classes.ahead(py, seen)).transpose()
    }

    #[pyo3(signature = (peer, destinations, n_bytes, handles=Numbers::default(), fds=Fds::default(), *,
                        flags=None, optional=Numbers::default(), credentials))]
    #[expect(clippy::too_many_arguments, reason = "those of the page")]
    fn rehearse(
        &self,
        py: Python<'_>,
        peer: Peer,
        destinations: Numbers,
        n_bytes: u64,
        handles: Numbers,
        fds: Fds,
        flags: Option<Number<'_>>,
        optional: Numbers,
        credentials: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        let request = Request {
            destinations: &destinations.values,
            handles: &handles.values,
            fds: &fds.0,
            flags: self.send_flags(py, &peer, flags)?,
            optional: &optional.values,
        };
        let who = self.known.of(credentials)?;
        self.run(py, |core| {
            let result = core.rehearse(peer.0, &request, n_bytes, &who);
            result.map_err(|error| about(error, handles.wild.as_ref().or(destinations.wild.as_ref())))
        })
    }

    fn is_readable(&self, py: Python<'_>, peer: Peer) -> PyResult<bool> {
        self.look(py, peer.0, |core| core.is_readable(peer.0))
    }

    fn node_of(&self, py: Python<'_>, peer: Peer, handle: Number<'_>) -> PyResult<Option<(u64, u64)>> {
        self.run(py, |core| core.node_of(peer.0, handle.value))
    }

    fn queued<'py>(&self, py: Python<'py>, sender: Number<'_>, reader: Peer) -> PyResult<Bound<'py, PyAny>> {
        let usage = self.look(py, reader.0, |core| core.queued(sender.value, reader.0))?;
        Classes::get(py)?.usage(py, usage.unwrap_or_default())
    }

    fn waiting<'py>(&self, py: Python<'py>, reader: Peer) -> PyResult<Bound<'py, PyAny>> {
        let usage = self.look(py, reader.0, |core| core.waiting(reader.0))?;
        Classes::get(py)?.usage(py, usage.unwrap_or_default())
    }

    fn users<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let users = self.locked(py)?.users();
        let classes = Classes::get(py)?;
        let dict = PyDict::new(py);
        for (uid, user) in &users {
            dict.set_item(uid, classes.user_usage(py, user)?)?;
        }
        Ok(dict)
    }

    fn effort(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.locked(py)?.effort())
    }

    fn set_user_limits(&self, py: Python<'_>, uid: i64, limits: &Bound<'_, PyAny>) -> PyResult<()> {
        let limits = limits_of(limits)?;
        self.locked(py)?.set_user_limits(uid, limits);
        Ok(())
    }

    // ---- effects ---------------------------------------------------------------------------------

    fn has_effects(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.locked(py)?.has_effects())
    }

    fn take_woken(&self, py: Python<'_>) -> PyResult<Vec<u64>> {
        Ok(self.locked(py)?.take_woken())
    }

    fn take_freed_fds(&self, py: Python<'_>) -> PyResult<Vec<i32>> {
        Ok(self.locked(py)?.take_freed_fds())
    }

    fn take_retired(&self, py: Python<'_>) -> PyResult<Vec<(u64, u64)>> {
        Ok(self.locked(py)?.take_retired())
    }
}

impl Core {
    fn send_flags(&self, py: Python<'_>, peer: &Peer, flags: Option<Number<'_>>) -> PyResult<u64> {
        match flags {
            Some(flags) if flags.wild.is_some() => {
                self.check(py, peer.0)?;
                Err(invalid(py, format!("send flags {}", flags.hex())))
            }
            Some(flags) => Ok(flags.value),
            None => Ok(0),
        }
    }
}
