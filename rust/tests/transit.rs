//! Messages that pass through the lane without a queue: every byte arrives, and Core is as if they had been queued.

mod bus;
mod twins;

use std::io::{self, Read, Write, pipe};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bus::{call, read};
use bus1_native::core::Limits;
use bus1_native::dbus::{Outgoing, build, parse};
use bus1_native::lane::{Lane, Report, Work};
use bus1_native::sys::{self, Epoll};
use bus1_native::tables::MatchRule;
use twins::{NAMES, Twins, payload, quiet, quiets, signal, sizes, stamped, who};

const EPOLLOUT: u32 = libc::EPOLLOUT as u32;

#[test]
fn what_is_written_whole_leaves_what_a_queue_leaves() {
    let mut twins = Twins::new();
    let messages = quiets(NAMES[1], 100, 5);
    let expected = twins.send(0, &messages);
    assert_eq!(twins.bus.turn(), []);
    assert_eq!(read(&mut twins.clients[1].socket, expected.len()), expected);
    twins.queue(0, 1, &sizes(&messages, NAMES[0]), 5);
    twins.compare();
    let mine = quiets(NAMES[0], 20, 2);
    let expected = twins.send(0, &mine);
    assert_eq!(twins.bus.turn(), []);
    assert_eq!(read(&mut twins.clients[0].socket, expected.len()), expected);
    twins.queue(0, 0, &sizes(&mine, NAMES[0]), 2);
    twins.compare();
}

#[test]
fn more_than_one_write_holds_arrives_in_order() {
    let mut twins = Twins::new();
    let messages = quiets(NAMES[1], 3_000, 60);
    let expected = twins.send(0, &messages);
    let mut got = Vec::new();
    while got.len() < expected.len() {
        assert_eq!(twins.bus.turn(), []);
        let mut buffer = vec![0; 1 << 20];
        let n = twins.clients[1].socket.read(&mut buffer).unwrap();
        got.extend_from_slice(&buffer[..n]);
    }
    assert!(got == expected);
    twins.queue(0, 1, &sizes(&messages, NAMES[0]), 60);
    twins.compare();
}

#[test]
fn a_write_that_ends_within_the_third_message_leaves_three_of_five() {
    let mut twins = Twins::new();
    let n_filled = twins.fill(1);
    // room for one piece of the kernel's, which is not larger than three messages
    read(&mut twins.clients[1].socket, 1);
    let messages = quiets(NAMES[1], 14_000, 5);
    let expected = twins.send(0, &messages);
    assert_eq!(twins.bus.turn(), []);
    let sizes = sizes(&messages, NAMES[0]);
    let offset = twins.offset(1);
    assert!(0 < offset && offset < sizes[2], "{offset}");
    twins.queue(0, 1, &sizes, 2);
    twins.compare();
    read(&mut twins.clients[1].socket, n_filled - 1);
    assert!(read(&mut twins.clients[1].socket, 2 * sizes[0] + offset) == expected[..2 * sizes[0] + offset]);
    assert_eq!(twins.bus.turn(), []);
    assert!(read(&mut twins.clients[1].socket, 3 * sizes[0] - offset) == expected[2 * sizes[0] + offset..]);
    twins.queue(0, 1, &[], 3);
    twins.compare();
}

#[test]
fn for_a_full_socket_everything_is_queued() {
    let mut twins = Twins::new();
    let n_filled = twins.fill(1);
    let messages = quiets(NAMES[1], 100, 5);
    let mut expected = twins.send(0, &messages);
    assert_eq!(twins.bus.turn(), []);
    twins.queue(0, 1, &sizes(&messages, NAMES[0]), 0);
    twins.compare();
    expected.extend(twins.send(0, &messages[..1]));
    assert_eq!(twins.bus.turn(), []);
    twins.queue(0, 1, &sizes(&messages[..1], NAMES[0]), 0);
    twins.compare();
    read(&mut twins.clients[1].socket, n_filled);
    assert_eq!(twins.bus.turn(), []);
    assert_eq!(read(&mut twins.clients[1].socket, expected.len()), expected);
    twins.queue(0, 1, &[], 6);
    twins.compare();
}

#[test]
fn a_signal_of_which_one_reader_takes_nothing_reaches_the_others() {
    let mut twins = Twins::new();
    for client in &twins.clients {
        let rule = MatchRule::parse("member='S'").unwrap();
        twins.bus.world.matches.lock().unwrap().add(client.peer, &rule);
    }
    let n_filled = twins.fill(1);
    let peers: Vec<u64> = twins.clients.iter().map(|client| client.peer).collect();
    let message = stamped(&signal(1), NAMES[0]);
    for n_taken in [2, 0] {
        twins.send(0, &[signal(1), signal(1)]);
        assert_eq!(twins.bus.turn(), []);
        let mut core = twins.plain.world.core.lock().unwrap();
        for _ in 0..2 {
            let (parts, mut slots) = (payload(message.len()), Vec::new());
            core.deliver_to_all(peers[0], &peers, &parts, message.len(), &who(), &mut slots).unwrap();
        }
        for peer in [peers[0], peers[2]] {
            core.take_front(peer).unwrap();
            core.take_front(peer).unwrap();
        }
        // when it was found full it was to be written; since then it is not asked
        if n_taken == 2 {
            core.unwake(peers[1]);
        }
        drop(core);
        twins.compare();
    }
    let expected = message.repeat(4);
    for which in [0, 2] {
        assert_eq!(read(&mut twins.clients[which].socket, expected.len()), expected);
    }
    read(&mut twins.clients[1].socket, n_filled);
    assert_eq!(twins.bus.turn(), []);
    assert_eq!(read(&mut twins.clients[1].socket, expected.len()), expected);
}

#[test]
fn where_quotas_are_nearly_used_messages_pass_and_the_first_that_finds_no_room_is_handed_over() {
    let mut twins = Twins::with_limits(Limits([1 << 31, 1 << 31, 60_000, 1 << 31]));
    let messages = quiets(NAMES[1], 1_000, 30);
    let expected = twins.send(0, &messages);
    assert_eq!(twins.bus.turn(), []);
    assert_eq!(read(&mut twins.clients[1].socket, expected.len()), expected);
    for &size in &sizes(&messages, NAMES[0]) {
        twins.queue(0, 1, &[size], 1);
    }
    twins.compare();
    twins.fill(1);
    twins.send(0, &messages);
    assert_eq!(twins.bus.turn(), [(twins.clients[0].fd, 1)]);
    let (sender, reader) = (twins.clients[0].peer, twins.clients[1].peer);
    let mut core = twins.plain.world.core.lock().unwrap();
    let size = stamped(&messages[0], NAMES[0]).len();
    let deliver = |_: &u32| core.deliver(sender, reader, &payload(size), size, &[], &who()).is_ok();
    let n_queued = (0..30).take_while(deliver).count();
    core.unwake(reader);
    drop(core);
    assert!(5 < n_queued && n_queued < 30);
    twins.compare();
    let handed = twins.bus.lane.lock().unwrap().take(sender).unwrap();
    assert_eq!(handed.data, messages[n_queued]);
}

#[test]
fn a_reader_for_whom_much_has_come_is_written_while_other_messages_are_in_transit() {
    let (mut n_some, mut n_late) = (0, 0);
    for limit in (0..30).map(|step| 100_000 + step * 30_000).chain([1 << 40]) {
        let mut twins = Twins::with_limits(Limits([1 << 31, 1 << 31, limit, 1 << 31]));
        for which in 0..3 {
            twins.fill(which);
        }
        let mut found = Vec::new();
        // together more than is kept for one reader
        for (from, other) in [(0, 2), (2, 0)] {
            let (few, many) = (quiets(NAMES[other], 1_000, 4), quiets(NAMES[1], 14_000, 6));
            let messages = [few.clone(), many, few].concat();
            twins.send(from, &messages);
            let sizes = sizes(&messages, NAMES[from]).into_iter().enumerate();
            found.extend(sizes.map(|(at, size)| (from, if (4..10).contains(&at) { 1 } else { other }, size)));
        }
        let events = twins.bus.turn();
        let peers: Vec<u64> = twins.clients.iter().map(|client| client.peer).collect();
        let mut core = twins.plain.world.core.lock().unwrap();
        let mut deliver = |&&(from, to, size): &&(usize, usize, usize)| {
            core.deliver(peers[from], peers[to], &payload(size), size, &[], &who()).is_ok()
        };
        let n_queued = found.iter().take_while(|message| deliver(message)).count();
        peers.iter().for_each(|&peer| core.unwake(peer));
        drop(core);
        twins.compare();
        assert_eq!(events.is_empty(), n_queued == found.len(), "{limit}");
        n_some += usize::from(n_queued < found.len());
        // behind the one that found the reader full
        n_late += usize::from((22..found.len()).contains(&n_queued));
    }
    assert!(n_some > 5 && n_late > 0);
}

#[test]
fn what_came_before_a_message_that_is_handed_over_has_passed() {
    let mut twins = Twins::new();
    let first = quiet(1, NAMES[1], 30);
    let expected = twins.send(0, std::slice::from_ref(&first));
    let strange = call(2, "org.freedesktop.DBus");
    twins.send(0, &[strange.clone(), quiet(3, NAMES[1], 0)]);
    assert_eq!(twins.bus.turn(), [(twins.clients[0].fd, 1)]);
    assert_eq!(read(&mut twins.clients[1].socket, expected.len()), expected);
    twins.queue(0, 1, &[expected.len()], 1);
    twins.compare();
    assert_eq!(twins.bus.lane.lock().unwrap().take(twins.clients[0].peer).unwrap().data, strange);
}

#[test]
fn descriptors_come_behind_what_was_sent_before_them() {
    let twins = Twins::new();
    let (reader, _writer) = pipe().unwrap();
    let with_one = {
        let header = Outgoing {
            kind: 1,
            flags: 1,
            serial: 7,
            path: Some("/a"),
            member: Some("M"),
            destination: Some(NAMES[1]),
            unix_fds: 1,
            ..Outgoing::default()
        };
        build(&header)
    };
    let plain = quiet(1, NAMES[1], 10);
    let sent = [&plain[..], &plain, &with_one, &plain].concat();
    let socket = twins.clients[0].socket.as_raw_fd();
    assert_eq!(sys::send(socket, &[&sent], &[reader.as_raw_fd()]).unwrap(), sent.len());
    twins.bus.turn();
    let before = stamped(&plain, NAMES[0]);
    let mut buffer = Vec::with_capacity(1 << 16);
    let mut fds = Vec::new();
    let socket = twins.clients[1].socket.as_raw_fd();
    sys::receive(socket, &mut buffer, 2 * before.len(), &mut fds).unwrap();
    assert_eq!((buffer.clone(), fds.len()), (before.repeat(2), 0));
    buffer.clear();
    while buffer.len() < stamped(&with_one, NAMES[0]).len() + before.len() {
        sys::receive(socket, &mut buffer, 1 << 16, &mut fds).unwrap();
    }
    assert_eq!(buffer, [stamped(&with_one, NAMES[0]), before].concat());
    assert_eq!(fds.len(), 1);
    sys::close(fds[0]);
}

#[test]
fn what_two_senders_say_to_one_reader_keeps_the_order_of_each() {
    let mut twins = Twins::new();
    let messages = quiets(NAMES[2], 50, 4);
    let expected = [twins.send(0, &messages), twins.send(1, &messages)];
    assert_eq!(twins.bus.turn(), []);
    let got = read(&mut twins.clients[2].socket, expected[0].len() * 2);
    let at = expected[0].len();
    assert!(got == expected.concat() || got == [&expected[1][..], &expected[0]].concat());
    assert_ne!(got[..at], got[at..]);
    for from in [0, 1] {
        twins.queue(from, 2, &sizes(&messages, NAMES[from]), 4);
    }
    twins.compare();
}

#[test]
fn for_who_reads_no_more_it_is_queued_until_python_decides() {
    let mut twins = Twins::new();
    twins.clients[1].socket.shutdown(Shutdown::Read).unwrap();
    let messages = quiets(NAMES[1], 100, 2);
    twins.send(0, &messages);
    assert_eq!(twins.bus.turn(), [(twins.clients[1].fd, EPOLLOUT)]);
    twins.queue(0, 1, &sizes(&messages, NAMES[0]), 0);
    twins.compare();
}

#[test]
fn the_answer_to_a_question_for_the_bus_passes_too() {
    let mut twins = Twins::new();
    let question = build(&Outgoing {
        kind: 1,
        serial: 3,
        path: Some("/"),
        member: Some("GetId"),
        destination: Some("org.freedesktop.DBus"),
        ..Outgoing::default()
    });
    twins.clients[0].socket.write_all(&question.repeat(3)).unwrap();
    assert_eq!(twins.bus.turn(), []);
    let mut buffer = vec![0; 4096];
    let n = twins.clients[0].socket.read(&mut buffer).unwrap();
    assert_eq!(n % 3, 0);
    let answers: Vec<_> = buffer[..n].chunks(n / 3).map(|answer| parse(answer).unwrap()).collect();
    assert!(answers.iter().all(|answer| answer.reply_serial == 3));
    assert_eq!([0, 1, 2].map(|at| answers[at].serial), [1, 2, 3]);
    let mut core = twins.plain.world.core.lock().unwrap();
    for _ in 0..3 {
        core.deliver(1, twins.clients[0].peer, &payload(n / 3), n / 3, &[], &who()).unwrap();
    }
    for _ in 0..3 {
        core.take_front(twins.clients[0].peer).unwrap();
    }
    drop(core);
    twins.compare();
}

#[test]
fn a_call_that_is_handed_over_is_not_waited_for() {
    let mut twins = Twins::with_limits(Limits([1 << 31, 1 << 31, 60_000, 1 << 31]));
    twins.fill(1);
    let calls: Vec<Vec<u8>> = (1..=60).map(|serial| call(serial, NAMES[1])).collect();
    twins.send(0, &calls);
    assert_eq!(twins.bus.turn(), [(twins.clients[0].fd, 1)]);
    let [caller, callee] = [0, 1].map(|which| twins.clients[which].peer);
    let handed = twins.bus.lane.lock().unwrap().take(caller).unwrap();
    let n_queued = twins.bus.world.core.lock().unwrap().waiting(callee).unwrap().messages;
    assert_eq!(handed.data, calls[n_queued as usize]);
    assert_eq!(twins.bus.world.replies.lock().unwrap().outstanding(caller) as u64, n_queued);
}

/// A lane that looks at what somebody has got.
struct Looking {
    socket: UnixStream,
    seen: Arc<AtomicUsize>,
}

impl Lane for Looking {
    fn prepare(&mut self, _: &Epoll) -> io::Result<Work> {
        Ok(Work::Nothing)
    }

    fn ready(&mut self, events: &[(RawFd, u32)], _: f64, _: &mut Report) {
        if !events.is_empty() {
            self.seen.store(self.socket.read(&mut [0; 4096]).unwrap_or(0), Ordering::Relaxed);
        }
    }

    fn finish(&mut self, events: &[(RawFd, u32)], now: f64, report: &mut Report) {
        self.ready(events, now, report);
    }
}

#[test]
fn nothing_is_in_transit_while_another_lane_works() {
    let mut twins = Twins::new();
    let (mut theirs, ours) = UnixStream::pair().unwrap();
    let socket = twins.clients[2].socket.try_clone().unwrap();
    socket.set_nonblocking(true).unwrap();
    let seen = Arc::new(AtomicUsize::new(0));
    let looking = Looking { socket, seen: Arc::clone(&seen) };
    let number = twins.bus.poller.add_lane(Arc::new(Mutex::new(looking)));
    twins.bus.poller.join(ours.as_raw_fd(), number);
    twins.bus.poller.epoll().add(ours.as_raw_fd(), libc::EPOLLIN as u32).unwrap();
    let sent = twins.send(0, &quiets(NAMES[2], 10, 2));
    theirs.write_all(b"x").unwrap();
    twins.send(1, &quiets(NAMES[2], 10, 2));
    assert_eq!(twins.bus.turn(), []);
    assert_eq!(seen.load(Ordering::Relaxed), sent.len());
}
