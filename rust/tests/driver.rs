//! What the bus itself is asked within the lane, driven through socket pairs.

mod bus;

use std::io::{ErrorKind, Read, Write};

use bus::{Bus, Client, free};
use bus1_native::dbus::{Outgoing, build, frame_length, parse, text_body};
use bus1_native::lane::connection::Standing;

const DRIVER: &str = "org.freedesktop.DBus";
const RULE: &str = "type='signal',arg0='x'";

fn ask(serial: u32, member: &str, text: Option<&str>) -> Vec<u8> {
    let body = text.map(text_body).unwrap_or_default();
    let mut whole = build(&Outgoing {
        kind: 1,
        serial,
        path: Some("/x"),
        interface: Some(DRIVER),
        member: Some(member),
        destination: Some(DRIVER),
        signature: if text.is_some() { "s" } else { "" },
        body_length: body.len() as u32,
        ..Outgoing::default()
    });
    whole.extend_from_slice(&body);
    whole
}

fn rules(bus: &Bus, client: &Client) -> u64 {
    bus.world.matches.lock().unwrap().count(client.peer)
}

/// All that has come, message by message.
fn answers(client: &mut Client) -> Vec<Vec<u8>> {
    client.socket.set_nonblocking(true).unwrap();
    let mut data = Vec::new();
    match client.socket.read_to_end(&mut data) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        other => panic!("{other:?}"),
    }
    client.socket.set_nonblocking(false).unwrap();
    let mut found = Vec::new();
    let mut rest = &data[..];
    while let Some(length) = frame_length(rest).unwrap() {
        let (message, behind) = rest.split_at(length);
        found.push(message.to_vec());
        rest = behind;
    }
    assert!(rest.is_empty());
    found
}

#[test]
fn rules_come_and_go_and_each_call_is_answered_under_the_next_number() {
    let mut bus = Bus::new();
    let mut a = bus.client(":1.1");
    let said = [
        ask(7, "AddMatch", Some(RULE)),
        ask(8, "AddMatch", Some(RULE)),
        ask(9, "RemoveMatch", Some("arg0=x,type=signal")),
    ];
    a.socket.write_all(&said.concat()).unwrap();
    assert_eq!((bus.turn(), rules(&bus, &a)), (vec![], 1));
    for (n, message) in answers(&mut a).iter().enumerate() {
        let header = parse(message).unwrap();
        assert_eq!((header.kind, header.serial, header.reply_serial), (2, n as u32 + 1, n as u32 + 7));
        assert_eq!((header.sender(message), header.destination(message)), (Some(DRIVER), Some(":1.1")));
        assert_eq!((header.signature(message), header.body_length), ("", 0));
    }
    a.socket.write_all(&ask(10, "RemoveMatch", Some(RULE))).unwrap();
    assert_eq!((bus.turn(), rules(&bus, &a)), (vec![], 0));
}

#[test]
fn what_would_be_refused_is_handed_over_and_changes_nothing() {
    for (member, text) in [
        ("AddMatch", Some("eavesdrop=true")),
        ("AddMatch", Some("what")),
        ("AddMatch", Some(&*"x".repeat(5000))),
        ("AddMatch", None),
        ("RemoveMatch", Some("arg0='y'")),
        ("GetNameOwner", Some("a.b")),
        ("NameHasOwner", Some(":1.7")),
        ("GetConnectionCredentials", Some("a.b")),
        ("GetId", Some("")),
        ("Ping", None),
    ] {
        let mut bus = Bus::new();
        let mut a = bus.client(":1.1");
        a.socket.write_all(&[ask(1, "AddMatch", Some(RULE)), ask(2, member, text)].concat()).unwrap();
        assert_eq!(bus.turn(), [(a.fd, 1)], "{member} {text:?}");
        let handed = bus.lane.lock().unwrap().take(a.peer).unwrap();
        assert_eq!((handed.data.clone(), rules(&bus, &a)), (ask(2, member, text), 1));
        assert_eq!(answers(&mut a).len(), 1);
    }
}

#[test]
fn one_rule_more_than_a_client_may_have_is_handed_over() {
    let mut bus = Bus::new();
    let mut a = bus.client(":1.1");
    let standing = Standing { max_match_rules: 1, ..free() };
    bus.lane.lock().unwrap().parties.set_standing(a.peer, standing, true);
    a.socket.write_all(&ask(1, "AddMatch", Some(RULE)).repeat(2)).unwrap();
    assert_eq!((bus.turn(), rules(&bus, &a)), (vec![(a.fd, 1)], 1));
}

#[test]
fn names_are_known_as_python_tells_them() {
    let mut bus = Bus::new();
    let (mut a, b) = (bus.client(":1.1"), bus.client(":1.2"));
    let mut owner = |bus: &Bus| {
        a.socket.write_all(&ask(1, "NameHasOwner", Some("a.b"))).unwrap();
        let events = bus.turn();
        let last = answers(&mut a).pop();
        last.filter(|_| events.is_empty()).map(|message| message[message.len() - 4])
    };
    assert_eq!(owner(&bus), Some(0));
    bus.lane.lock().unwrap().parties.own("a.b", Some(b.peer));
    assert_eq!(owner(&bus), Some(1));
    bus.lane.lock().unwrap().parties.own("a.b", Some(77));
    assert_eq!(owner(&bus), None, "somebody else's, of whom the lane knows nothing");
}

#[test]
fn who_does_not_read_gets_every_answer_later() {
    let mut bus = Bus::new();
    let mut a = bus.client(":1.1");
    const MANY: u32 = 20_000;
    for first in (0..MANY).step_by(1000) {
        let said: Vec<u8> =
            (first..first + 1000).flat_map(|n| ask(n + 1, "GetNameOwner", Some(":1.1"))).collect();
        a.socket.write_all(&said).unwrap();
        for _ in 0..10 {
            assert_eq!(bus.turn(), []);
        }
    }
    for n in 0..MANY {
        let message = next(&mut a);
        assert_eq!(parse(&message).unwrap().reply_serial, n + 1);
        assert_eq!(bus.turn(), []);
    }
}

/// The next message.
fn next(client: &mut Client) -> Vec<u8> {
    let mut message = vec![0; 16];
    client.socket.read_exact(&mut message).unwrap();
    message.resize(frame_length(&message).unwrap().unwrap(), 0);
    client.socket.read_exact(&mut message[16..]).unwrap();
    message
}

#[test]
fn a_body_that_does_not_fit_has_no_effect() {
    let mut bus = Bus::new();
    let mut a = bus.client(":1.1");
    let whole = ask(1, "AddMatch", Some(RULE));
    let length = whole.len();
    for (at, byte) in [(length - 1, b'x'), (length - 3, 0), (length - RULE.len() - 5, 1), (length - 4, 0xff)]
    {
        let mut damaged = whole.clone();
        damaged[at] = byte;
        a.socket.write_all(&damaged).unwrap();
        assert_eq!((bus.turn(), rules(&bus, &a)), (vec![(a.fd, 1)], 0), "{at}");
        bus.lane.lock().unwrap().take(a.peer).unwrap();
        bus.lane.lock().unwrap().give_back(a.peer, 0, false);
    }
    a.socket.write_all(&whole).unwrap();
    assert_eq!((bus.turn(), rules(&bus, &a)), (vec![], 1));
}
