//! A bus of clients that are all in the lane, driven through socket pairs.
// each test program uses a part of it
#![allow(dead_code)]

use std::io::Read;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use bus1_native::core::{Core, Credentials, Limits, Memory, Payload, Request, Setup};
use bus1_native::dbus::{Outgoing, build};
use bus1_native::lane::connection::{Connection, Standing};
use bus1_native::lane::dbus::DbusLane;
use bus1_native::lane::express::Climate;
use bus1_native::lane::parties::Bus as Itself;
use bus1_native::lane::world::World;
use bus1_native::lane::{Lane, Poller};
use bus1_native::tables::{MatchIndex, ReplyTable, Tally};

const BUS: u64 = 1;

/// A bus of clients that are all in the lane.
pub struct Bus {
    pub poller: Poller,
    pub lane: Arc<Mutex<DbusLane>>,
    number: usize,
    pub world: World,
    pub ends: Vec<UnixStream>,
}

/// One client: its end of the socket, its Core peer, and its descriptor at the bus.
pub struct Client {
    pub socket: UnixStream,
    pub peer: u64,
    pub fd: RawFd,
}

impl Bus {
    pub fn new() -> Self {
        Self::with_limits(Limits([1 << 31, 1 << 31, 1 << 40, 1 << 31]))
    }

    pub fn with_limits(limits: Limits) -> Self {
        Self::beside(limits, None)
    }

    /// Behind another lane.
    pub fn beside(limits: Limits, other: Option<Arc<Mutex<dyn Lane>>>) -> Self {
        let mut core = Core::new(limits);
        core.peer_new(0, Memory::Heap(None), Setup::default());
        let world = World {
            core: Arc::new(Mutex::new(core)),
            matches: Arc::new(Mutex::new(MatchIndex::new(Arc::new(Mutex::new(Tally::default()))))),
            replies: Arc::new(Mutex::new(ReplyTable::default())),
        };
        let mut lane =
            DbusLane::new(world.clone(), Itself { peer: BUS, id: "0123".into(), ..Itself::default() });
        lane.climate = Climate { is_unwatched: true, ..Climate::default() };
        let lane = Arc::new(Mutex::new(lane));
        let poller = Poller::new().unwrap();
        other.map(|other| poller.add_lane(other));
        let number = poller.add_lane(Arc::clone(&lane) as Arc<Mutex<dyn Lane>>);
        Self { poller, lane, number, world, ends: Vec::new() }
    }

    /// Nobody knows its process.
    pub fn client(&mut self, unique: &str) -> Client {
        self.client_of(unique, 0)
    }

    pub fn client_of(&mut self, unique: &str, pid: i64) -> Client {
        let (theirs, ours) = UnixStream::pair().unwrap();
        let credentials = Arc::new(Credentials { pid, ..Credentials::default() });
        let mut core = self.world.core.lock().unwrap();
        let setup = Setup { overhead: 512, ..Setup::default() };
        let peer = core.peer_new(0, Memory::Heap(None), setup);
        let root = Request { handles: &[0], ..Request::default() };
        core.send(peer, &root, &Payload::default(), &credentials).unwrap();
        drop(core);
        let fd = ours.as_raw_fd();
        let connection = Connection::new(fd, peer, unique, credentials, free());
        self.lane.lock().unwrap().join(Box::new(connection));
        self.poller.join(fd, self.number);
        self.ends.push(ours);
        Client { socket: theirs, peer, fd }
    }

    pub fn turn(&self) -> Vec<(RawFd, u32)> {
        self.poller.poll(Some(0.0)).unwrap().0
    }
}

pub fn call(serial: u32, to: &str) -> Vec<u8> {
    build(&Outgoing {
        kind: 1,
        serial,
        path: Some("/a"),
        member: Some("M"),
        interface: Some("a.b"),
        destination: Some(to),
        ..Outgoing::default()
    })
}

pub fn read(socket: &mut UnixStream, n: usize) -> Vec<u8> {
    let mut buffer = vec![0; n];
    socket.read_exact(&mut buffer).unwrap();
    buffer
}

/// Who may do everything.
pub fn free() -> Standing {
    Standing {
        sends_all: true,
        receives_all: true,
        policy: None,
        takes_fds: true,
        max_message_size: 1 << 27,
        max_message_unix_fds: 16,
        max_incoming_unix_fds: 1 << 20,
        max_outgoing_unix_fds: 1 << 20,
        max_incoming_bytes: 1 << 30,
        max_outgoing_bytes: 1 << 30,
        max_replies: 1000,
    }
}
