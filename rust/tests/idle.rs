//! What an idle connection takes of memory; a measurement, for people who ask.

mod bus;

use std::sync::Arc;

use bus1_native::core::{Core, Credentials, Limits, Memory, Parts, Payload, Request, Setup};
use bus1_native::lane::connection::{Connection, Standing};
use bus1_native::lane::dbus::DbusLane;

use bus::{Bus, free};

const N: usize = 20_000;

/// Bytes of this process that are resident.
fn resident() -> usize {
    let all = std::fs::read_to_string("/proc/self/statm").unwrap();
    all.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn who(pid: i64) -> Arc<Credentials> {
    Arc::new(Credentials { uid: 1000, gid: 1000, pid, groups: vec![1000], ..Credentials::default() })
}

/// A peer of Core that was answered its Hello.
fn hosted(core: &mut Core, credentials: &Arc<Credentials>) -> u64 {
    let limits = Some(Limits([1 << 20, 1 << 20, 1 << 30, 1 << 20]));
    let setup = Setup { limits, overhead: 512, ..Setup::default() };
    let peer = core.peer_new(1000, Memory::Heap(None), setup);
    let root = Request { handles: &[0], ..Request::default() };
    core.send(peer, &root, &Payload::default(), credentials).unwrap();
    for _ in 0..2 {
        core.deliver(1, peer, &Parts::from_iter([vec![0; 100].into()]), 100, &[], credentials).unwrap();
    }
    for _ in 0..2 {
        core.take_front(peer).unwrap();
    }
    core.unwake(peer);
    peer
}

fn enter(lane: &mut DbusLane, at: usize, peer: u64, who: &Arc<Credentials>, standing: &Arc<Standing>) {
    // nobody looks at these descriptors
    let connection = Connection::new(1000 + at as i32, peer, "", Arc::clone(who), Arc::clone(standing));
    let slot = lane.parties.enter(Box::new(connection));
    lane.parties.name(slot, &format!(":1.{at}"));
}

/// `cargo test --release --no-default-features --test idle -- --ignored --nocapture`: bytes, part by part.
#[test]
#[ignore = "a measurement"]
fn what_an_idle_connection_takes() {
    let bus = Bus::with_limits(Limits([1 << 31, 1 << 31, 1 << 40, 1 << 31]));
    let mut before = resident();
    let mut tell = |what: &str| {
        let now = resident();
        println!("{what}: {} bytes", (now - before) / N);
        before = now;
    };
    let all: Vec<Arc<Credentials>> = (0..N as i64).map(who).collect();
    tell("who it is");
    let mut core = bus.world.core.lock().unwrap();
    let peers: Vec<u64> = all.iter().map(|who| hosted(&mut core, who)).collect();
    tell("in Core");
    let mut lane = bus.lane.lock().unwrap();
    let standing = Arc::new(free());
    for (at, (peer, who)) in peers.iter().zip(&all).enumerate() {
        enter(&mut lane, at, *peer, who, &standing);
    }
    tell("in the lane");
    println!("{} of them in a connection", size_of::<Connection>());
}
