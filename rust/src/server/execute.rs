//! The operations, executed for one channel.
//!
//! Theory. As `bus1/requests.py`: a command of Core, or those of a sequence in order, each settled before the next; then
//! the answer. Where settling needs Python, what is left of the request is what the server owes (`Owed`), and `pay` goes
//! on with it.
//!
//! Invariants. 1. A request that is not for us (`Step::Unusual`) has had no effect.
//!
//! Not here: taking requests apart (`request`), RECV's line (`serve`).

use std::os::fd::RawFd;

use smallvec::SmallVec;

use super::frames::{Header, Writer, error_answer, operation};
use super::request::{Receiving, Request, Sending};
use super::station::Waiting;
use super::{Owed, Paused, Server, locked};
use crate::core::api::{Parts, Payload};
use crate::core::error::{Error, Result};
use crate::core::{self, Core};
use crate::lane::Report;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It has been carried out, and answered if it is to be.
    Done,
    /// It has been carried out, or part of it, and Python has to settle.
    Paused,
    /// It is for Python.
    Unusual,
}

/// What is left of CALL or REPLY, once it has sent.
pub(super) struct Sequence {
    waiting: Waiting,
    slice: Option<(u64, u64)>,
    handle: Option<u64>,
}

impl Server {
    /// Carries out a request of the channel `fd`.
    pub(super) fn execute(
        &mut self,
        core: &mut Core,
        fd: RawFd,
        header: Header,
        request: Request<'_>,
        report: &mut Report,
    ) -> Step {
        let Some(peer) = self.channels.get(&fd).map(|channel| channel.peer) else {
            return Step::Unusual;
        };
        let Some(station) = self.stations.get(&peer) else {
            return Step::Unusual; // it is over
        };
        let needs_line = matches!(request, Request::Recv(_) | Request::Cancel | Request::Sequence(..));
        if needs_line && !station.is_here {
            return Step::Unusual;
        }
        let mut out = std::mem::take(&mut self.answer);
        out.clear();
        let step = match request {
            Request::Sequence(sending, slice, handle, receiving) => {
                if !self.reaches_natives(core, peer, &sending) {
                    Step::Unusual
                } else if let Err(error) = self.send(core, fd, peer, &sending) {
                    self.refuse(&mut out, header, &error, 0);
                    self.settle_and_answer(core, fd, &mut out, report)
                } else {
                    let waiting = waiting(fd, header, receiving, 1);
                    self.go_on_with(core, Sequence { waiting, slice, handle }, report)
                }
            }
            Request::Recv(receiving) => {
                let is_answered = self.receive(core, waiting(fd, header, receiving, 0), report);
                let step = self.settle_and_answer(core, fd, &mut out, report);
                if is_answered { step } else { self.pause(fd, Owed::Nothing, report) }
            }
            Request::Cancel => {
                self.cancel(core, fd, peer, header.tag);
                self.settle_and_answer(core, fd, &mut out, report)
            }
            Request::Send(sending) | Request::Respond(sending, _)
                if !self.has_all(fd, &sending) || !self.reaches_natives(core, peer, &sending) =>
            {
                Step::Unusual
            }
            _ => {
                self.run(core, fd, peer, header, request, &mut out);
                self.settle_and_answer(core, fd, &mut out, report)
            }
        };
        self.answer = out;
        step
    }

    /// One command, and its answer.
    fn run(
        &mut self,
        core: &mut Core,
        fd: RawFd,
        peer: u64,
        header: Header,
        request: Request<'_>,
        out: &mut Vec<u8>,
    ) {
        let mut done = 0;
        let outcome = match request {
            Request::Send(sending) => {
                self.send(core, fd, peer, &sending).map(|slots| slots_answer(out, header, &slots))
            }
            Request::Respond(sending, handle) => {
                let sent = self.send(core, fd, peer, &sending);
                done = u16::from(sent.is_ok());
                sent.and_then(|_| core.handle_release(peer, handle)).map(|()| plain_answer(out, header, &[]))
            }
            Request::Release(handle) => {
                core.handle_release(peer, handle).map(|()| plain_answer(out, header, &[]))
            }
            Request::Transfer(handle) => {
                core.handle_transfer(peer, handle, peer).map(|there| plain_answer(out, header, &[there]))
            }
            Request::Destroy(flags, nodes) => {
                core.node_destroy(peer, &collect(nodes), flags).map(|()| plain_answer(out, header, &[]))
            }
            Request::SliceRelease(offset, serial) => {
                self.slice_release(core, peer, offset, serial).map(|()| plain_answer(out, header, &[]))
            }
            Request::Sequence(..) | Request::Recv(_) | Request::Cancel => Ok(()),
        };
        if let Err(error) = outcome {
            self.refuse(out, header, &error, done);
        }
    }

    fn refuse(&mut self, out: &mut Vec<u8>, header: Header, error: &Error, done: u16) {
        let words = self.words(error);
        error_answer(out, header.operation, header.tag, words, done, 0);
    }

    /// Whether every receiver that exists is a native peer: no D-Bus connection, no object of the bus.
    fn reaches_natives(&self, core: &Core, peer: u64, sending: &Sending<'_>) -> bool {
        sending.destinations.iter().chain(sending.optional.iter()).all(|handle| {
            match core.node_of(peer, handle) {
                Ok(Some((owner, _))) => self.stations.contains_key(&owner),
                Ok(None) => true,
                Err(_) => false,
            }
        })
    }

    /// What lies in the arena lies there.
    fn has_all(&self, fd: RawFd, sending: &Sending<'_>) -> bool {
        sending.arena.1 == 0
            || self.channels.get(&fd).is_some_and(|channel| channel.stretch(sending.arena).is_some())
    }

    fn send(&mut self, core: &mut Core, fd: RawFd, peer: u64, sending: &Sending<'_>) -> Result<Vec<i32>> {
        let mut parts = Parts::new();
        if !sending.payload.is_empty() {
            parts.push(bytes::Bytes::copy_from_slice(sending.payload));
        }
        let Some(channel) = self.channels.get(&fd) else {
            return Ok(Vec::new());
        };
        let request = core::Request {
            destinations: &collect(sending.destinations),
            handles: &collect(sending.handles),
            fds: &[],
            flags: sending.flags,
            optional: &collect(sending.optional),
        };
        match channel.stretch(sending.arena).filter(|stretch| stretch.size > 0) {
            Some(stretch) => core.send_from(peer, &request, &stretch, &channel.credentials),
            None => core.send(peer, &request, &Payload::from(parts), &channel.credentials),
        }
    }

    fn slice_release(&mut self, core: &mut Core, peer: u64, offset: u64, serial: u64) -> Result<()> {
        let unmapped = self.stations.get(&peer).is_none_or(|station| {
            locked(&station.memory)
                .segment_at(offset)
                .is_none_or(|segment| station.is_unmapped(segment.generation))
        });
        core.slice_release(peer, offset, serial, unmapped)
    }

    fn cancel(&mut self, core: &Core, fd: RawFd, peer: u64, tag: u64) {
        let Some(station) = self.stations.get_mut(&peer) else {
            return;
        };
        let at = station.line.iter().position(|waiting| waiting.fd == fd && waiting.tag == tag);
        if let Some(waiting) = at.and_then(|at| station.line.remove(at)) {
            let words = (libc::EAGAIN as u32, "nothing has come in time");
            self.fail(core, peer, &waiting, words);
        }
    }

    // ---- sequences -----------------------------------------------------------------------------------

    /// The rest of CALL and REPLY: give the slice and the handle back, receive.
    fn go_on_with(&mut self, core: &mut Core, mut sequence: Sequence, report: &mut Report) -> Step {
        let fd = sequence.waiting.fd;
        let Some(peer) = self.channels.get(&fd).map(|channel| channel.peer) else {
            return Step::Done;
        };
        if !self.settle(core, report) {
            return self.pause(fd, Owed::Sequence(Box::new(sequence)), report);
        }
        if sequence.slice.is_some() || sequence.handle.is_some() {
            if let Err(error) = self.give_back(core, peer, &mut sequence) {
                let Waiting { operation, tag, done, .. } = sequence.waiting;
                let words = self.words(&error);
                let mut out = Vec::new();
                error_answer(&mut out, operation, tag, words, done, 0);
                return self.settle_and_answer(core, fd, &mut out, report);
            }
            return self.go_on_with(core, sequence, report);
        }
        let is_answered = self.receive(core, sequence.waiting, report);
        let is_settled = self.settle(core, report);
        if is_answered && is_settled { Step::Done } else { self.pause(fd, Owed::Nothing, report) }
    }

    fn give_back(&mut self, core: &mut Core, peer: u64, sequence: &mut Sequence) -> Result<()> {
        if let Some((offset, serial)) = sequence.slice.take() {
            self.slice_release(core, peer, offset, serial)?;
            sequence.waiting.done += 1;
        }
        if let Some(handle) = sequence.handle.take() {
            core.handle_release(peer, handle)?;
            sequence.waiting.done += 1;
        }
        Ok(())
    }

    /// The channel is over before its sequence is: what it gives back goes back.
    pub(super) fn end_sequence(&mut self, peer: u64, mut sequence: Sequence) {
        let core = std::sync::Arc::clone(&self.core);
        // nobody is there to be told of an error
        let _ = self.give_back(&mut locked(&core), peer, &mut sequence);
    }

    // ---- settling ------------------------------------------------------------------------------------

    fn settle_and_answer(
        &mut self,
        core: &mut Core,
        fd: RawFd,
        out: &mut Vec<u8>,
        report: &mut Report,
    ) -> Step {
        if !self.settle(core, report) {
            let owed = if out.is_empty() { Owed::Nothing } else { Owed::Answer(std::mem::take(out)) };
            return self.pause(fd, owed, report);
        }
        if !out.is_empty() {
            self.push(fd, |output| output.extend_from_slice(out));
        }
        Step::Done
    }

    pub(super) fn pause(&mut self, fd: RawFd, owed: Owed, report: &mut Report) -> Step {
        report.stops = true;
        report.is_due = true;
        self.paused = Some(Paused { fd, owed });
        if self.broken.is_some() {
            self.hand_over(fd, 0, report); // whoever takes it is told
        }
        Step::Paused
    }

    /// Carries out what commands have left behind, as far as it concerns lines that are here. False: there is more.
    pub(super) fn settle(&mut self, core: &mut Core, report: &mut Report) -> bool {
        if self.broken.is_some() {
            return false;
        }
        if !core.has_effects() {
            return true;
        }
        let mut is_settled = true;
        loop {
            let mut is_over = true;
            for peer in core.woken() {
                if self.stations.get(&peer).is_some_and(|station| station.is_here) {
                    core.unwake(peer);
                    is_over = false;
                    is_settled &= self.serve(core, peer, report);
                }
            }
            if is_over {
                return is_settled && !core.has_effects();
            }
        }
    }

    /// Python has settled: goes on with what is owed. It may pause again.
    pub(super) fn pay(&mut self, report: &mut Report) {
        let Some(Paused { fd, owed }) = self.paused.take() else {
            return;
        };
        let core = std::sync::Arc::clone(&self.core);
        let core = &mut *locked(&core);
        match owed {
            Owed::Nothing => {}
            Owed::Answer(answer) => self.push(fd, |output| output.extend_from_slice(&answer)),
            Owed::Sequence(sequence) => {
                self.go_on_with(core, *sequence, report);
            }
        }
    }
}

fn waiting(fd: RawFd, header: Header, receiving: Receiving, done: u16) -> Waiting {
    Waiting { fd, operation: header.operation, tag: header.tag, receiving, done }
}

fn collect(words: super::frames::Words<'_>) -> SmallVec<[u64; 4]> {
    words.iter().collect()
}

fn plain_answer(out: &mut Vec<u8>, header: Header, values: &[u64]) {
    if !header.is_quiet {
        let writer = Writer::answer(out, header.operation, header.tag, 0, 0, 0);
        values.iter().fold(writer, |writer, value| writer.u64(*value)).end();
    }
}

fn slots_answer(out: &mut Vec<u8>, header: Header, slots: &[i32]) {
    let slots = if slots.iter().any(|slot| *slot != 0) { slots } else { &[] };
    if header.is_quiet && slots.is_empty() {
        return;
    }
    let writer = Writer::answer(out, operation::SEND, header.tag, 0, 0, 0).u64(slots.len() as u64);
    let slots = slots.iter().map(|slot| i64::from(*slot) as u64);
    slots.fold(writer, Writer::u64).end();
}
