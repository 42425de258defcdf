//! A bus where messages pass, and one where the same are queued: Core has to look alike.

use std::io::{ErrorKind, Write};
use std::sync::Arc;

use bus1_native::core::value::Value;
use bus1_native::core::{Credentials, Limits, Parts};
use bus1_native::dbus::{Outgoing, build, parse, stamp, text_body};
use bytes::Bytes;

use crate::bus::{Bus, Client, read};

pub const NAMES: [&str; 3] = [":1.1", ":1.2", ":1.3"];

/// A bus whose clients have had a message each, and one on which the same is queued by hand.
pub struct Twins {
    pub bus: Bus,
    pub clients: Vec<Client>,
    pub plain: Bus,
}

impl Twins {
    pub fn new() -> Self {
        Self::on(Bus::new(), Bus::new())
    }

    pub fn with_limits(limits: Limits) -> Self {
        Self::on(Bus::with_limits(limits), Bus::with_limits(limits))
    }

    pub fn on(mut bus: Bus, mut plain: Bus) -> Self {
        let clients: Vec<Client> = NAMES.iter().map(|name| bus.client(name)).collect();
        NAMES.iter().for_each(|name| drop(plain.client(name)));
        let mut twins = Self { bus, clients, plain };
        for (to, name) in NAMES.iter().enumerate() {
            let message = twins.send(0, &[quiet(9, name, 0)]);
            assert_eq!(twins.bus.turn(), []);
            assert_eq!(read(&mut twins.clients[to].socket, message.len()), message);
            twins.queue(0, to, &[message.len()], 1);
        }
        twins.compare();
        twins
    }

    /// Messages of a client, in one write; what arrives of them.
    pub fn send(&mut self, from: usize, messages: &[Vec<u8>]) -> Vec<u8> {
        self.clients[from].socket.write_all(&messages.concat()).unwrap();
        messages.iter().flat_map(|message| stamped(message, NAMES[from])).collect()
    }

    /// The same, queued; so many of them are taken.
    pub fn queue(&self, from: usize, to: usize, sizes: &[usize], n_taken: usize) {
        let (sender, reader) = (self.clients[from].peer, self.clients[to].peer);
        let mut core = self.plain.world.core.lock().unwrap();
        for &size in sizes {
            core.deliver(sender, reader, &payload(size), size, &[], &who()).unwrap();
        }
        core.unwake(reader);
        for _ in 0..n_taken {
            core.take_front(reader).unwrap();
        }
    }

    pub fn snapshots(&self) -> [Value; 2] {
        [&self.bus, &self.plain].map(|bus| bus.world.core.lock().unwrap().snapshot())
    }

    pub fn compare(&self) {
        let [passed, queued] = self.snapshots();
        assert_eq!(passed, queued);
    }

    /// The socket of a client takes nothing more; how much is in it.
    pub fn fill(&self, which: usize) -> usize {
        let end = &self.bus.ends[which];
        end.set_nonblocking(true).unwrap();
        let mut n = 0;
        loop {
            match (&mut &*end).write(b"x") {
                Ok(_) => n += 1,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return n,
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub fn offset(&self, which: usize) -> usize {
        let lane = self.bus.lane.lock().unwrap();
        let slot = lane.parties.slot(self.clients[which].peer).unwrap();
        lane.parties.get(slot).unwrap().output.offset
    }
}

pub fn who() -> Arc<Credentials> {
    Arc::default()
}

pub fn payload(size: usize) -> Parts {
    Parts::from_iter([Bytes::from(vec![0; size])])
}

pub fn stamped(message: &[u8], sender: &str) -> Vec<u8> {
    let (header, mut out) = (parse(message).unwrap(), Vec::new());
    stamp(message, &header, sender.as_bytes(), &mut out).unwrap();
    out.extend_from_slice(&message[header.header_length..]);
    out
}

/// A call that wants no answer, with a text.
pub fn quiet(serial: u32, to: &str, n: usize) -> Vec<u8> {
    let body = text_body(&"t".repeat(n));
    let header = Outgoing {
        kind: 1,
        flags: 1,
        serial,
        body_length: body.len() as u32,
        path: Some("/a"),
        member: Some("M"),
        destination: Some(to),
        signature: "s",
        ..Outgoing::default()
    };
    [build(&header), body].concat()
}

pub fn signal(serial: u32) -> Vec<u8> {
    build(&Outgoing {
        kind: 4,
        serial,
        path: Some("/a"),
        interface: Some("a.b"),
        member: Some("S"),
        ..Outgoing::default()
    })
}

pub fn quiets(to: &str, n_bytes: usize, n: u32) -> Vec<Vec<u8>> {
    (1..=n).map(|serial| quiet(serial, to, n_bytes)).collect()
}

pub fn sizes(messages: &[Vec<u8>], sender: &str) -> Vec<usize> {
    messages.iter().map(|message| stamped(message, sender).len()).collect()
}
