//! The lane of D-Bus connections, driven through socket pairs.

mod bus;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use bus::{Bus, Client, call, free, read};
use bus1_native::dbus::{Outgoing, build, text_body};
use bus1_native::lane::connection::{Connection, End, Standing};
use bus1_native::tables::policy::{MOST_FDS, Rule};
use bus1_native::tables::{ClientPolicy, MatchRule};

fn with_sender(message: &Outgoing<'_>, sender: &str, body: &[u8]) -> Vec<u8> {
    let mut whole = build(&Outgoing { sender: Some(sender), body_length: body.len() as u32, ..*message });
    whole.extend_from_slice(body);
    whole
}

#[test]
fn a_call_and_its_answer_pass_without_python() {
    let mut bus = Bus::new();
    let (mut a, mut b) = (bus.client(":1.1"), bus.client(":1.2"));
    a.socket.write_all(&call(7, ":1.2")).unwrap();
    assert_eq!(bus.turn(), []);
    let expected = Outgoing {
        kind: 1,
        serial: 7,
        path: Some("/a"),
        member: Some("M"),
        interface: Some("a.b"),
        destination: Some(":1.2"),
        ..Outgoing::default()
    };
    let expected = with_sender(&expected, ":1.1", b"");
    assert_eq!(read(&mut b.socket, expected.len()), expected);
    assert!(bus.world.replies.lock().unwrap().awaits(a.peer, b.peer, 7));
    let answer = Outgoing {
        kind: 2,
        serial: 1,
        reply_serial: 7,
        destination: Some(":1.1"),
        signature: "s",
        ..Outgoing::default()
    };
    let body = text_body("yes");
    let sent = with_sender(&answer, ":9.9", &body);
    b.socket.write_all(&sent).unwrap();
    assert_eq!(bus.turn(), []);
    let expected = with_sender(&answer, ":1.2", &body);
    assert_eq!(read(&mut a.socket, expected.len()), expected);
    assert_eq!(bus.world.replies.lock().unwrap().outstanding(a.peer), 0);
    assert_eq!(bus.world.core.lock().unwrap().waiting(a.peer).unwrap().messages, 0);
}

#[test]
fn what_is_not_everyday_is_handed_over_alone_and_ends_the_turn() {
    let mut bus = Bus::new();
    let (mut a, mut b) = (bus.client(":1.1"), bus.client(":1.2"));
    let strange = call(2, "org.freedesktop.DBus");
    let mut sent = call(1, ":1.2");
    let first = sent.len();
    sent.extend_from_slice(&strange);
    sent.extend_from_slice(&call(3, ":1.2"));
    a.socket.write_all(&sent).unwrap();
    assert_eq!(bus.turn(), [(a.fd, 1)]);
    let handed = bus.lane.lock().unwrap().take(a.peer).unwrap();
    assert_eq!((handed.data.clone(), handed.end), (strange, End::Open));
    read(&mut b.socket, first + 8);
    assert_eq!(bus.turn(), [], "the rest waits until the input is given back");
    bus.lane.lock().unwrap().give_back(a.peer, 0, false);
    assert_eq!(bus.turn(), []);
    assert!(bus.world.replies.lock().unwrap().awaits(a.peer, b.peer, 3));
}

#[test]
fn what_a_policy_permits_passes_and_what_it_does_not_is_handed_over() {
    let mut bus = Bus::new();
    let (mut a, mut b) = (bus.client(":1.1"), bus.client(":1.2"));
    let rule = |allow, name: Option<&str>| Rule {
        allow,
        name: name.map(Into::into),
        requested_reply: allow,
        max_fds: MOST_FDS,
        ..Rule::default()
    };
    let sent = vec![rule(false, None), rule(true, Some("a.Service"))];
    let policy = Arc::new(ClientPolicy::new(sent, vec![rule(true, None)]));
    for peer in [a.peer, b.peer] {
        let strict =
            Standing { sends_all: false, receives_all: false, policy: Some(policy.clone()), ..free() };
        bus.lane.lock().unwrap().parties.set_standing(peer, strict);
    }
    for (serial, is_held) in [(1, false), (2, true), (3, false)] {
        bus.lane.lock().unwrap().parties.claim(b.peer, "a.Service", is_held);
        let sent = call(serial, ":1.2");
        a.socket.write_all(&sent).unwrap();
        if is_held {
            assert_eq!(bus.turn(), []);
            read(&mut b.socket, sent.len() + 16);
        } else {
            assert_eq!(bus.turn(), [(a.fd, 1)]);
            assert_eq!(bus.lane.lock().unwrap().take(a.peer).unwrap().data, sent);
            bus.lane.lock().unwrap().give_back(a.peer, 0, false);
        }
    }
    assert_eq!(bus.world.replies.lock().unwrap().outstanding(a.peer), 1);
}

#[test]
fn a_few_messages_that_were_said_at_once_stay_together() {
    let mut bus = Bus::new();
    let (mut a, mut b, mut c) = (bus.client(":1.1"), bus.client(":1.2"), bus.client(":1.3"));
    let mut sent = call(1, "org.freedesktop.DBus");
    sent.extend_from_slice(&call(2, ":1.3"));
    a.socket.write_all(&sent).unwrap();
    assert_eq!(bus.turn(), [(a.fd, 1)]);
    b.socket.write_all(&call(3, ":1.3")).unwrap();
    bus.lane.lock().unwrap().take(a.peer).unwrap();
    bus.lane.lock().unwrap().give_back(a.peer, 0, false);
    assert_eq!(bus.turn(), []);
    let size = call(2, ":1.3").len() + 16;
    let serials = [read(&mut c.socket, size)[8], read(&mut c.socket, size)[8]];
    assert_eq!(serials, [2, 3]);
}

#[test]
fn who_has_much_handed_over_lets_others_have_their_turn() {
    let mut bus = Bus::new();
    let (mut a, mut b, mut c) = (bus.client(":1.1"), bus.client(":1.2"), bus.client(":1.3"));
    let strange = call(1, "org.freedesktop.DBus").repeat(100);
    a.socket.write_all(&strange).unwrap();
    b.socket.set_nonblocking(true).unwrap();
    c.socket.set_nonblocking(true).unwrap();
    let mut decided = 0;
    while c.socket.read(&mut [0; 8]).is_err() {
        bus.turn();
        if bus.lane.lock().unwrap().take(a.peer).is_some() {
            decided += 1;
            bus.lane.lock().unwrap().give_back(a.peer, 0, false);
        }
        if decided == 1 {
            b.socket.write_all(&call(3, ":1.3")).unwrap();
        }
        assert!(decided < 100, "others wait for all of it");
    }
    // what is everyday goes before the ninth, in the same turn
    assert_eq!(decided, 9);
}

#[test]
fn the_end_of_a_stream_is_handed_over_with_what_is_incomplete() {
    let mut bus = Bus::new();
    let mut a = bus.client(":1.1");
    a.socket.write_all(&call(1, ":1.2")[..20]).unwrap();
    assert_eq!(bus.turn(), []);
    a.socket.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(bus.turn(), [(a.fd, 1)]);
    let handed = bus.lane.lock().unwrap().take(a.peer).unwrap();
    assert_eq!((handed.data.len(), handed.end), (20, End::Ended));
}

#[test]
fn a_client_that_cannot_be_watched_ends_alone() {
    let mut bus = Bus::new();
    let mut a = bus.client(":1.1");
    let mut b = bus.client(":1.2");
    let lost = bus.client(":1.3");
    let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
    // epoll refuses files
    bus.lane.lock().unwrap().leave(None, lost.peer);
    let connection =
        Connection::new(file.as_raw_fd(), lost.peer, ":1.3", Arc::default(), Standing::default());
    bus.lane.lock().unwrap().join(Box::new(connection));
    a.socket.write_all(&call(1, ":1.2")).unwrap();
    let (fd, events) = bus.turn()[0];
    assert_eq!((fd, events & libc::EPOLLERR as u32 != 0), (file.as_raw_fd(), true));
    assert_eq!(bus.lane.lock().unwrap().take(lost.peer).unwrap().end, End::Unwatched);
    bus.lane.lock().unwrap().leave(None, lost.peer);
    assert_eq!(bus.turn(), []);
    assert_eq!(read(&mut b.socket, 16)[8..12], 1_u32.to_le_bytes());
}

#[test]
fn a_large_message_arrives_as_it_was_sent() {
    let mut bus = Bus::new();
    let (a, mut b) = (bus.client(":1.1"), bus.client(":1.2"));
    let mut body = (3_000_000u32).to_le_bytes().to_vec();
    body.extend((0..3_000_000u32).map(|i| (i * 7) as u8));
    let header = Outgoing {
        kind: 1,
        flags: 1,
        serial: 9,
        path: Some("/a"),
        member: Some("M"),
        destination: Some(":1.2"),
        signature: "ay",
        ..Outgoing::default()
    };
    let mut sent = build(&Outgoing { body_length: body.len() as u32, ..header });
    sent.extend_from_slice(&body);
    let expected = with_sender(&header, ":1.1", &body);
    let mut socket = a.socket.try_clone().unwrap();
    let writer = std::thread::spawn(move || socket.write_all(&sent).unwrap());
    b.socket.set_nonblocking(true).unwrap();
    let mut got = Vec::new();
    let mut buffer = vec![0; 1 << 20];
    while got.len() < expected.len() {
        bus.poller.poll(Some(0.001)).unwrap();
        while let Ok(n) = b.socket.read(&mut buffer) {
            got.extend_from_slice(&buffer[..n]);
        }
    }
    writer.join().unwrap();
    assert!(got == expected);
}

#[test]
fn a_signal_reaches_those_whose_rules_match_in_the_order_of_their_first_rules() {
    let mut bus = Bus::new();
    let mut a = bus.client(":1.1");
    let mut readers: VecDeque<Client> = (2..5).map(|i| bus.client(&format!(":1.{i}"))).collect();
    for (reader, rule) in readers.iter().zip(["member='S'", "arg0='x',path='/a'", "arg0='y'"]) {
        bus.world.matches.lock().unwrap().add(reader.peer, &MatchRule::parse(rule).unwrap());
    }
    let signal = Outgoing {
        kind: 4,
        serial: 5,
        path: Some("/a"),
        interface: Some("a.b"),
        member: Some("S"),
        signature: "s",
        ..Outgoing::default()
    };
    let body = text_body("x");
    let mut sent = build(&Outgoing { body_length: body.len() as u32, ..signal });
    sent.extend_from_slice(&body);
    a.socket.write_all(&sent).unwrap();
    assert_eq!(bus.turn(), []);
    let last = readers.pop_back().unwrap();
    for reader in &mut readers {
        let got = read(&mut reader.socket, sent.len() + 16);
        assert!(got.windows(4).any(|four| four == b":1.1"));
    }
    last.socket.set_nonblocking(true).unwrap();
    assert!((&last.socket).read(&mut [0; 8]).is_err());
}

/// `cargo test --release --no-default-features --test lane -- --ignored --nocapture`: what a message costs.
#[test]
#[ignore = "a measurement"]
fn what_a_message_costs() {
    let mut bus = Bus::new();
    let (mut a, mut b) = (bus.client(":1.1"), bus.client(":1.2"));
    let one = {
        let mut one = call(7, ":1.2");
        one[2] = 1;
        one
    };
    let batch: Vec<u8> = one.iter().copied().cycle().take(one.len() * 200).collect();
    let mut buffer = vec![0; 1 << 20];
    let mut spent = std::time::Duration::ZERO;
    for _ in 0..5_000 {
        a.socket.write_all(&batch).unwrap();
        let start = std::time::Instant::now();
        assert_eq!(bus.turn(), []);
        spent += start.elapsed();
        let mut left = (one.len() + 16) * 200;
        while left > 0 {
            left = left.saturating_sub(b.socket.read(&mut buffer).unwrap());
            if left > 0 {
                bus.turn();
            }
        }
    }
    println!("{:?} per message, in batches of 200", spent / 1_000_000);
}

/// The same for calls and answers, one at a time.
#[test]
#[ignore = "a measurement"]
fn what_a_call_costs() {
    let mut bus = Bus::new();
    let (mut a, mut b) = (bus.client(":1.1"), bus.client(":1.2"));
    let mut buffer = vec![0; 1 << 16];
    let rounds = 20_000;
    let mut spent = std::time::Duration::ZERO;
    for serial in 1..=rounds {
        let answer = build(&Outgoing {
            kind: 2,
            serial,
            reply_serial: serial,
            destination: Some(":1.1"),
            ..Outgoing::default()
        });
        for (message, is_call) in [(call(serial, ":1.2"), true), (answer, false)] {
            let (from, to) = if is_call { (&mut a, &mut b) } else { (&mut b, &mut a) };
            from.socket.write_all(&message).unwrap();
            let start = std::time::Instant::now();
            assert_eq!(bus.turn(), []);
            spent += start.elapsed();
            assert!(to.socket.read(&mut buffer).unwrap() > 0);
        }
    }
    println!("{:?} per message, one at a time", spent / (2 * rounds));
}
