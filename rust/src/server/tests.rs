//! The server as a whole, with a Core of its own and sockets made of vectors.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};

use super::frames::{HEADER, Header, QUIET, operation};
use super::wire::Wire;
use super::{Limits, Server, locked};
use crate::core::api::Credentials;
use crate::core::{Core, Memory, Setup};
use crate::lane::{Lane, Report};
use crate::memory::Sealed;
use crate::sys::Received;

const IN: u32 = libc::EPOLLIN as u32;
const INVALID: u64 = u64::MAX;
const ROOT: u64 = 0x10;

#[derive(Default)]
struct Log {
    input: HashMap<RawFd, VecDeque<Vec<u8>>>,
    written: Vec<(RawFd, Vec<u8>)>,
    /// How much a socket takes from now on.
    room: HashMap<RawFd, usize>,
}

struct Fake(Arc<Mutex<Log>>);

impl Wire for Fake {
    fn receive(
        &mut self,
        fd: RawFd,
        buffer: &mut Vec<u8>,
        _most: usize,
        _fds: &mut Vec<RawFd>,
    ) -> io::Result<Received> {
        let mut log = locked(&self.0);
        let Some(data) = log.input.entry(fd).or_default().pop_front() else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        buffer.extend_from_slice(&data);
        Ok(Received { n_bytes: data.len(), is_truncated: false, credentials: Some((0, 0, 0)) })
    }

    fn send(&mut self, fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
        let mut log = locked(&self.0);
        let room = log.room.get(&fd).copied().unwrap_or(usize::MAX);
        let taken = bytes.len().min(room);
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if let Some(left) = log.room.get_mut(&fd) {
            *left -= taken;
        }
        log.written.push((fd, bytes[..taken].to_vec()));
        Ok(taken)
    }

    fn close(&mut self, _fd: RawFd) {}
}

/// Two peers, 1 and 2, whose channels are 11 and 12, whose pairs are 21 and 22; each has a handle of the other's root.
struct Scene {
    server: Server,
    log: Arc<Mutex<Log>>,
    handles: [u64; 2],
}

impl Scene {
    fn new(requests_per_turn: i64) -> Self {
        let log = Arc::<Mutex<Log>>::default();
        let core = Arc::new(Mutex::new(Core::new(Default::default())));
        let limits = Limits { requests_per_turn, unsent_bytes: 1 << 20 };
        let mut server = Server::new(core.clone(), Box::new(Fake(log.clone())), limits);
        let memories = [(); 2].map(|()| Arc::new(Mutex::new(Sealed::default())));
        let peers = memories
            .clone()
            .map(|memory| locked(&core).peer_new(0, Memory::Sealed(memory), Setup::default()));
        for (at, memory) in memories.into_iter().enumerate() {
            let (peer, at) = (peers[at], at as RawFd);
            server.open(peer, 21 + at, memory);
            server.give_line(peer, false, Vec::new());
            server.join(11 + at, peer, 0, Arc::new(Credentials::default()));
            assert!(server.give(11 + at));
        }
        let mut core = locked(&core);
        let handles =
            [0, 1].map(|at| core.handle_transfer(peers[1 - at], ROOT, peers[at]).expect("a handle"));
        drop(core);
        Self { server, log, handles }
    }

    fn say(&mut self, fd: RawFd, data: Vec<u8>) -> Report {
        locked(&self.log).input.entry(fd).or_default().push_back(data);
        self.turn(&[(fd, IN)])
    }

    fn turn(&mut self, events: &[(RawFd, u32)]) -> Report {
        let mut report = Report::default();
        self.server.turn += 1;
        self.server.finish(events, 0.0, &mut report);
        report
    }

    fn written(&self) -> Vec<(RawFd, Vec<u8>)> {
        std::mem::take(&mut locked(&self.log).written)
    }
}

fn frame(operation: u16, tag: u64, words: &[u64], tail: &[u8]) -> Vec<u8> {
    let length = HEADER + 8 * words.len() + tail.len();
    let mut out = (length as u32).to_le_bytes().to_vec();
    out.extend_from_slice(&operation.to_le_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&tag.to_le_bytes());
    words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
    out.extend_from_slice(tail);
    out
}

fn send(tag: u64, destination: u64, payload: &[u8]) -> Vec<u8> {
    let words = [0, 1, (payload.len() as u64) << 32, 0, 0, destination];
    frame(operation::SEND, tag, &words, payload)
}

fn recv(tag: u64, options: u64) -> Vec<u8> {
    frame(operation::RECV, tag, &[4, INVALID, options], b"")
}

fn tags(bytes: &[u8]) -> Vec<u64> {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(header) = Header::read(&bytes[at..]) {
        found.push(header.tag);
        at += header.length;
    }
    found
}

#[test]
fn a_waiting_receiver_is_told_before_the_sender_is_answered() {
    let mut scene = Scene::new(64);
    assert!(scene.say(12, recv(7, 3)).is_empty());
    assert!(scene.written().is_empty());
    let to = scene.handles[0];
    assert!(scene.say(11, send(5, to, b"hello")).is_empty());
    let written = scene.written();
    let told: Vec<_> = written.iter().map(|(fd, bytes)| (*fd, tags(bytes))).collect();
    assert_eq!(told, [(12, vec![7]), (11, vec![5])]);
    assert_eq!(&written[0].1[16 + 8 + 128..][..5], b"hello");
}

#[test]
fn without_a_receiver_a_byte_is_in_flight() {
    let mut scene = Scene::new(64);
    let to = scene.handles[0];
    scene.say(11, send(5, to, b"hello"));
    let written = scene.written();
    assert_eq!(written[0], (22, vec![1]));
    scene.say(12, recv(7, 2));
    let answer = &scene.written()[0].1;
    assert_eq!(answer[16 + 6], 1, "DRAINED");
}

#[test]
fn a_quiet_request_that_succeeds_is_not_answered() {
    let mut scene = Scene::new(64);
    let mut quiet = send(5, scene.handles[0], b"");
    quiet[4..6].copy_from_slice(&(operation::SEND | QUIET).to_le_bytes());
    scene.say(11, quiet);
    assert_eq!(scene.written(), [(22, vec![1])]);
}

#[test]
fn what_is_not_everyday_goes_to_python_from_its_first_byte_on() {
    let mut scene = Scene::new(64);
    let query = frame(0x101, 6, &[0], b"");
    let input = [send(5, scene.handles[0], b""), query.clone(), recv(8, 3)].concat();
    let report = scene.say(11, input);
    assert_eq!(report.events, [(11, 0)]);
    assert!(!report.stops);
    assert_eq!(tags(&scene.written().last().expect("an answer").1), [5]);
    let left = scene.server.take(11);
    assert_eq!(left.input, [query, recv(8, 3)].concat());
    assert!(left.frames.is_empty());
    // while it is Python's, so are its events
    assert_eq!(scene.turn(&[(11, IN)]).events, [(11, IN)]);
}

#[test]
fn an_answer_that_does_not_fit_is_left_to_python() {
    let mut scene = Scene::new(64);
    locked(&scene.log).room.insert(11, 40);
    let to = scene.handles[0];
    let report = scene.say(11, [send(5, to, b""), send(6, to, b"")].concat());
    assert_eq!(report.events, [(11, 0)]);
    let left = scene.server.take(11);
    assert_eq!(left.frames.len(), 1);
    assert_eq!(left.frames[0].len(), 24);
    assert!(left.input.is_empty());
}

#[test]
fn a_user_has_no_more_than_its_allowance_in_a_turn() {
    let mut scene = Scene::new(2);
    let to = scene.handles[0];
    let input: Vec<u8> = (1..6).flat_map(|tag| send(tag, to, b"")).collect();
    let mut answered = Vec::new();
    scene.say(11, input);
    for _ in 0..3 {
        let of_turn = scene.written().into_iter().filter(|(fd, _)| *fd == 11);
        answered.push(of_turn.flat_map(|(_, bytes)| tags(&bytes)).collect::<Vec<_>>());
        scene.turn(&[]);
    }
    assert_eq!(answered, [vec![1, 2], vec![3, 4], vec![5]]);
    assert!(!scene.server.is_busy());
}

#[test]
fn it_pauses_while_python_has_to_settle_and_keeps_the_answer() {
    let mut scene = Scene::new(64);
    assert_eq!(scene.server.take_line(2), (Some(false), Vec::new()));
    let to = scene.handles[0];
    let report = scene.say(11, [send(5, to, b""), send(6, to, b"")].concat());
    assert!(report.stops && report.is_due);
    assert!(scene.written().is_empty());
    locked(&scene.server.core).take_woken();
    scene.server.give_line(2, true, Vec::new());
    assert!(scene.turn(&[]).is_empty());
    assert_eq!(scene.written().iter().map(|(_, bytes)| tags(bytes)).collect::<Vec<_>>(), [[5, 6]]);
}

#[test]
fn a_call_goes_on_where_it_has_paused() {
    let mut scene = Scene::new(64);
    scene.server.take_line(2);
    let words = [0, 1, 0, 0, 0, 4, INVALID, 3, scene.handles[0]];
    scene.say(11, frame(operation::CALL, 9, &words, b""));
    locked(&scene.server.core).take_woken();
    scene.server.give_line(2, true, Vec::new());
    scene.turn(&[]);
    assert!(scene.written().is_empty());
    scene.say(12, send(3, scene.handles[1], b"answer"));
    let written = scene.written();
    assert_eq!(tags(&written[0].1), [9]);
    assert_eq!(written[0].1[16 + 4], 1, "done");
}

#[test]
fn a_channel_that_is_taken_while_it_is_owed_an_answer_gets_it() {
    let mut scene = Scene::new(64);
    scene.server.take_line(2);
    let input = [send(5, scene.handles[0], b""), recv(6, 3)].concat();
    scene.say(11, input);
    locked(&scene.server.core).take_woken();
    let left = scene.server.take(11);
    assert_eq!(tags(&left.frames.concat()), [5]);
    assert_eq!(left.input, recv(6, 3));
    scene.server.give_line(2, true, Vec::new());
    assert!(!scene.server.is_busy());
}

#[test]
fn a_receive_that_comes_while_the_line_is_pythons_is_kept_behind_the_others() {
    let mut scene = Scene::new(64);
    scene.server.take_line(2);
    let words = [0, 1, 0, 0, 0, 4, INVALID, 3, scene.handles[0]];
    scene.say(11, frame(operation::CALL, 9, &words, b""));
    assert_eq!(scene.server.take_line(1), (Some(false), Vec::new()));
    locked(&scene.server.core).take_woken();
    scene.server.give_line(2, true, Vec::new());
    let report = scene.turn(&[]);
    assert_eq!(report.events, [(21, 0)]);
    let (is_signalled, waiting) = scene.server.take_line(1);
    assert_eq!((is_signalled, waiting.len(), waiting[0].tag), (None, 1, 9));
    scene.server.give_line(1, false, waiting);
    scene.say(12, send(3, scene.handles[1], b"answer"));
    assert!(scene.written().is_empty(), "who has paused goes on behind the events");
    scene.turn(&[(12, IN)]);
    assert_eq!(tags(&scene.written()[0].1), [9]);
}
