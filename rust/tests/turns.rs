//! The turns of a poller with two lanes: who goes first, and that nobody is passed over.

mod bus;

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use bus::{Bus, Client, call, read};
use bus1_native::core::Limits;
use bus1_native::lane::world::World;
use bus1_native::lane::{Lane, Report, Work};
use bus1_native::sys::Epoll;

const DRIVER: &str = "org.freedesktop.DBus";

/// A lane of one socket, which looks at what has happened when it is served, or goes on and pauses each time.
#[derive(Default)]
struct Other {
    looks_at: Option<World>,
    /// How many answers the caller awaited then.
    found: Vec<usize>,
    caller: u64,
    pauses: bool,
    n_pauses: usize,
}

impl Lane for Other {
    fn prepare(&mut self, _epoll: &Epoll) -> io::Result<Work> {
        Ok(if self.pauses { Work::Something } else { Work::Nothing })
    }

    fn ready(&mut self, events: &[(RawFd, u32)], _now: f64, _report: &mut Report) {
        if let Some(world) = self.looks_at.as_ref().filter(|_| !events.is_empty()) {
            self.found.push(world.replies.lock().unwrap().outstanding(self.caller));
        }
    }

    fn finish(&mut self, events: &[(RawFd, u32)], now: f64, report: &mut Report) {
        if !report.stops {
            self.ready(events, now, report);
        }
        if self.pauses && !report.stops {
            self.n_pauses += 1;
            report.stops = true;
            report.is_due = true;
        }
    }
}

fn scene() -> (Bus, Arc<Mutex<Other>>) {
    let other = Arc::new(Mutex::new(Other::default()));
    let limits = Limits([1 << 31, 1 << 31, 1 << 40, 1 << 31]);
    (Bus::beside(limits, Some(other.clone())), other)
}

/// A readable socket of the other lane.
fn ready(bus: &Bus) -> (UnixStream, UnixStream) {
    let (mut theirs, ours) = UnixStream::pair().unwrap();
    bus.poller.epoll().add(ours.as_raw_fd(), libc::EPOLLIN as u32).unwrap();
    bus.poller.join(ours.as_raw_fd(), 0);
    theirs.write_all(b"x").unwrap();
    (theirs, ours)
}

/// Two clients: of the first a call is handed over, and one for the second lies behind it.
fn handed_over(bus: &mut Bus) -> (Client, Client) {
    let (mut a, b) = (bus.client(":1.1"), bus.client(":1.2"));
    let mut sent = call(1, DRIVER);
    sent.extend_from_slice(&call(2, ":1.2"));
    a.socket.write_all(&sent).unwrap();
    assert_eq!(bus.turn(), [(a.fd, 1)]);
    (a, b)
}

fn decide(bus: &Bus, client: &Client) {
    bus.lane.lock().unwrap().take(client.peer).unwrap();
    bus.lane.lock().unwrap().give_back(client.peer, 0, false);
}

#[test]
fn who_was_handed_over_goes_on_before_the_other_lane_and_its_clients() {
    let (mut bus, other) = scene();
    let (a, mut b) = handed_over(&mut bus);
    {
        let mut other = other.lock().unwrap();
        (other.looks_at, other.caller) = (Some(bus.world.clone()), a.peer);
    }
    let _socket = ready(&bus);
    decide(&bus, &a);
    assert_eq!(bus.turn(), []);
    assert_eq!(other.lock().unwrap().found, [1]);
    assert_eq!(read(&mut b.socket, 16)[8], 2);
}

#[test]
fn who_was_handed_over_goes_on_although_the_other_lane_pauses_each_time() {
    let (mut bus, other) = scene();
    let (a, mut b) = handed_over(&mut bus);
    other.lock().unwrap().pauses = true;
    decide(&bus, &a);
    assert_eq!(bus.turn(), []);
    b.socket.set_nonblocking(true).unwrap();
    assert!(b.socket.read(&mut [0; 16]).is_ok());
}

#[test]
fn a_lane_that_pauses_each_time_it_goes_on_keeps_nobodys_events_waiting() {
    let (mut bus, other) = scene();
    let (mut a, mut b) = (bus.client(":1.1"), bus.client(":1.2"));
    other.lock().unwrap().pauses = true;
    b.socket.set_nonblocking(true).unwrap();
    for serial in 1..5 {
        a.socket.write_all(&call(serial, ":1.2")).unwrap();
        assert_eq!(bus.turn(), []);
        assert!(b.socket.read(&mut [0; 1024]).is_ok(), "{serial}");
    }
    assert_eq!(other.lock().unwrap().n_pauses, 4);
}

#[test]
fn lanes_that_stop_the_turn_as_they_go_on_take_turns() {
    let (mut bus, other) = scene();
    let a = bus.client(":1.1");
    let (mut socket, fd) = (a.socket.try_clone().unwrap(), a.fd);
    // more than may be handed over in its turn: then it stands in the line
    socket.write_all(&call(1, DRIVER).repeat(14)).unwrap();
    for _ in 0..8 {
        assert_eq!(bus.turn(), [(fd, 1)]);
        decide(&bus, &a);
    }
    other.lock().unwrap().pauses = true;
    let events = [bus.turn(), bus.turn()].concat();
    assert_eq!(events, [(fd, 1)]);
    assert_eq!(other.lock().unwrap().n_pauses, 1);
}

/// Whose messages are handed over in so many turns, each of which is decided before the next.
fn order(bus: &Bus, clients: &[&Client], n_turns: usize) -> Vec<u64> {
    let mut found = Vec::new();
    for _ in 0..n_turns {
        for (fd, _) in bus.turn() {
            let client = clients.iter().find(|client| client.fd == fd).unwrap();
            decide(bus, client);
            found.push(client.peer);
        }
    }
    found
}

#[test]
fn who_wants_much_of_python_shares_it_with_who_wants_little() {
    let mut bus = Bus::new();
    let (mut much, mut little) = (bus.client(":1.1"), bus.client(":1.2"));
    let (a, b) = (much.peer, little.peer);
    much.socket.write_all(&call(1, DRIVER).repeat(40)).unwrap();
    assert_eq!(order(&bus, &[&much], 7), [a; 7]);
    little.socket.write_all(&call(1, DRIVER)).unwrap();
    // eight messages stay together
    assert_eq!(order(&bus, &[&much, &little], 3), [a, b, a]);
    little.socket.write_all(&call(2, DRIVER).repeat(3)).unwrap();
    assert_eq!(order(&bus, &[&much, &little], 11), [a, a, a, a, a, a, a, b, b, b, a]);
}

#[test]
fn a_program_has_no_more_turns_by_having_more_connections() {
    let mut bus = Bus::new();
    let mut clients: Vec<Client> = (0..20).map(|i| bus.client_of(&format!(":1.{i}"), 77)).collect();
    clients.extend((20..24).map(|i| bus.client_of(&format!(":1.{i}"), 78)));
    // now they are watched
    assert_eq!(bus.turn(), []);
    for client in &mut clients {
        client.socket.write_all(&call(1, DRIVER)).unwrap();
    }
    let few: Vec<u64> = clients[20..].iter().map(|client| client.peer).collect();
    let found = order(&bus, &clients.iter().collect::<Vec<_>>(), 24);
    assert_eq!(found.len(), 24);
    let places: Vec<usize> = (0..24).filter(|&at| few.contains(&found[at])).collect();
    assert_eq!(places, [1, 3, 5, 7]);
}

#[test]
fn what_is_carried_out_at_once_does_not_wait_for_what_is_handed_over() {
    let mut bus = Bus::new();
    let (mut much, mut quick, mut reader) = (bus.client(":1.1"), bus.client(":1.2"), bus.client(":1.3"));
    much.socket.write_all(&call(1, DRIVER).repeat(20)).unwrap();
    assert_eq!(order(&bus, &[&much], 8), [much.peer; 8]);
    quick.socket.write_all(&call(9, ":1.3")).unwrap();
    assert_eq!(order(&bus, &[&much], 1), [much.peer]);
    reader.socket.set_nonblocking(true).unwrap();
    assert_eq!(read(&mut reader.socket, 16)[8], 9);
}

#[test]
fn whose_messages_are_being_dropped_goes_on_when_nobody_else_has_anything() {
    let mut bus = Bus::new();
    let (mut a, mut b, mut c) = (bus.client(":1.1"), bus.client(":1.2"), bus.client(":1.3"));
    {
        let mut lane = bus.lane.lock().unwrap();
        let slot = lane.parties.slot(a.peer).unwrap();
        lane.parties.get_mut(slot).unwrap().comes_last = true;
    }
    c.socket.set_nonblocking(true).unwrap();
    let sent: Vec<u8> = (1..13).flat_map(|serial| call(serial, DRIVER)).collect();
    a.socket.write_all(&sent).unwrap();
    for _ in 0..8 {
        assert_eq!(bus.turn(), [(a.fd, 1)]);
        decide(&bus, &a);
    }
    for serial in 1..4 {
        b.socket.write_all(&call(serial, ":1.3")).unwrap();
        assert_eq!(bus.turn(), []);
        let mut got = [0; 1024];
        assert!(c.socket.read(&mut got).is_ok());
        assert_eq!(u32::from(got[8]), serial);
    }
    assert_eq!(bus.turn(), [(a.fd, 1)]);
}
