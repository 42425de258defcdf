//! Core by itself; what it does as its Python twin is tested from there.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::*;

fn who() -> Arc<Credentials> {
    Arc::new(Credentials { uid: 1000, gid: 100, pid: 42, ..Credentials::default() })
}

/// A Core with two hosted peers, whose roots exist.
fn hosted() -> (Core, u64, u64) {
    let mut core = Core::new(Limits::default());
    let mut peer = || {
        let setup = Setup { overhead: 100, ..Setup::default() };
        let number = core.peer_new(1000, Memory::Heap(None), setup);
        let request = Request { handles: &[0], ..Request::default() };
        core.send(number, &request, &Payload::default(), &who()).unwrap();
        number
    };
    let (one, two) = (peer(), peer());
    (core, one, two)
}

fn parts(data: &'static [u8]) -> Parts {
    Parts::from_iter([Bytes::from_static(data)])
}

fn parcel(reader: u64, data: &'static [u8], mandatory: bool, with_fds: bool) -> Parcel {
    Parcel {
        node: (reader, 0),
        payload: parts(data).into(),
        handles: Vec::new(),
        with_fds,
        mandatory,
        note: 0,
    }
}

#[test]
fn the_express_way_leaves_what_route_and_recv_leave() {
    let (mut express, one, two) = hosted();
    let (mut plain, ..) = hosted();
    for round in 0..3 {
        express.deliver(one, two, &parts(b"hello"), 5, &[7], &who()).unwrap();
        plain.route(one, &[parcel(two, b"hello", true, true)], &[7], &who()).unwrap();
        assert_eq!(express.snapshot(), plain.snapshot());
        let mut slots = Vec::new();
        express.deliver_to_all(one, &[one, two, 99], &parts(b"all"), 3, &who(), &mut slots).unwrap();
        let parcels = [one, two, 99].map(|reader| parcel(reader, b"all", false, false));
        assert_eq!(slots, plain.route(one, &parcels, &[], &who()).unwrap());
        assert_eq!(slots, [0, 0, -libc::EHOSTUNREACH]);
        assert_eq!(express.snapshot(), plain.snapshot());
        for _ in 0..=round % 2 {
            express.take_front(two).unwrap();
            let message = plain.recv(two, 0, NO_LIMIT).unwrap();
            plain.slice_release(two, message.offset, message.serial, true).unwrap();
            assert_eq!(express.snapshot(), plain.snapshot());
        }
    }
    let error = express.deliver(one, 99, &parts(b"x"), 1, &[], &who()).unwrap_err();
    assert_eq!((error.kind, &*error.text), (Kind::NodeDestroyed, "no node (99, 0)"));
}

#[test]
fn when_all_peers_are_gone_nothing_is_left() {
    let (mut core, one, two) = hosted();
    core.deliver(one, two, &parts(b"hello"), 5, &[7, 8], &who()).unwrap();
    let handle = core.handle_transfer(two, 0, one).unwrap();
    let request = Request { destinations: &[handle], handles: &[0x10, handle], ..Request::default() };
    core.send(one, &request, &Payload::default(), &who()).unwrap();
    assert_eq!(core.take_woken(), [two]);
    core.peer_disconnect(two).unwrap();
    assert_eq!(core.recv(one, 0, NO_LIMIT).unwrap().kind, MessageType::NodeDestroy);
    core.peer_disconnect(one).unwrap();
    assert_eq!(core.take_freed_fds(), [7, 8]);
    assert!(core.nodes.is_empty() && core.handles.is_empty() && core.entries.is_empty());
    assert!(core.slices.is_empty() && core.descriptors.is_empty() && core.users().is_empty());
    assert!(!core.has_effects());
}

#[test]
fn a_peer_that_is_not_readable_any_more_is_not_woken() {
    let (mut core, one, two) = hosted();
    for _ in 0..1000 {
        core.deliver(one, two, &parts(b"x"), 1, &[], &who()).unwrap();
        core.deliver(two, one, &parts(b"x"), 1, &[], &who()).unwrap();
        core.take_front(two).unwrap();
        core.take_front(one).unwrap();
    }
    assert!(!core.has_effects() && core.sequencer.woken.len() <= 64);
    core.deliver(one, two, &parts(b"x"), 1, &[], &who()).unwrap();
    core.unwake(two);
    assert!(core.take_woken().is_empty() && core.is_readable(two));
}

#[test]
fn what_passes_leaves_what_a_queue_leaves() {
    let (mut passing, one, two) = hosted();
    let (mut plain, ..) = hosted();
    assert!(passing.room(one, two, &who()).is_none(), "the pool has no segment yet");
    for core in [&mut passing, &mut plain] {
        core.deliver(one, two, &parts(b"first"), 5, &[], &who()).unwrap();
        assert!(core.room(one, two, &who()).is_none(), "something waits");
        core.take_front(two).unwrap();
        core.take_woken();
    }
    let room = passing.room(one, two, &who()).unwrap();
    assert_eq!((room.charge(0, 0), room.charge(9, 0), room.charge(9, 3)), (108, 116, 132));
    for n_written in [3, 1] {
        let mut freed = Vec::new();
        let stamps = [(); 3].map(|()| passing.draw_stamp());
        if n_written == 3 {
            passing.passed(two, 3);
        } else {
            for stamp in stamps {
                assert!(passing.deliver_late((one, two), parts(b"hello"), 5, &FDS, &who(), stamp));
            }
            passing.take_front(two).unwrap();
        }
        for _ in 0..3 {
            plain.deliver(one, two, &parts(b"hello"), 5, &FDS, &who()).unwrap();
        }
        for _ in 0..n_written {
            plain.take_front(two).unwrap();
        }
        for core in [&mut passing, &mut plain] {
            core.unwake(two);
            freed.push(core.take_freed_fds().len());
            assert!(!core.has_effects());
        }
        // those of what has passed are not Core's
        assert_eq!(freed, if n_written == 3 { [0, 9] } else { [3, 3] });
        assert_eq!(passing.snapshot(), plain.snapshot());
    }
    passing.take_front(two).unwrap();
    passing.take_front(two).unwrap();
    let number = passing.handle_transfer(two, 0, one).unwrap();
    passing.handle_release(one, number).unwrap();
    assert!(passing.room(one, two, &who()).is_none(), "a notification waits");
    passing.recv(two, 0, NO_LIMIT).unwrap();
    assert!(passing.room(one, two, &who()).is_some());
    passing.node_destroy(two, &[0], 0).unwrap();
    passing.recv(two, 0, NO_LIMIT).unwrap();
    assert!(passing.room(one, two, &who()).is_none(), "its root is destroyed");
    assert!(passing.room(one, one, &who()).is_none(), "it is not known how its pool is");
}

const FDS: [i32; 3] = [7, 8, 9];

#[test]
fn whoever_gets_how_much_of_the_room_nothing_is_refused() {
    let mut state = 7_u64;
    let mut below = |n: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % n
    };
    for _ in 0..300 {
        let limits = Limits([20 + below(400), 1000, 4_000 + below(60_000), 5 + below(300)]);
        let mut core = Core::new(limits);
        let mut peers = Vec::new();
        for at in 0..4 {
            let own = Limits([15 + below(200), 1000, 3_000 + below(40_000), 3 + below(100)]);
            let setup = Setup { overhead: 100, limits: Some(own), ..Setup::default() };
            peers.push(core.peer_new(1000 + at / 3, Memory::Heap(None), setup));
        }
        for &peer in &peers {
            let root = Request { handles: &[0], ..Request::default() };
            core.send(peer, &root, &Payload::default(), &who()).unwrap();
            core.deliver(peer, peer, &parts(b"first"), 5, &[], &who()).unwrap();
            core.take_front(peer).unwrap();
        }
        for _ in 0..below(12) {
            let (from, to) = (peers[below(4) as usize], peers[1 + below(3) as usize]);
            let _ = core.deliver(from, to, &parts(b"before"), 6, &FDS[..below(3) as usize], &who());
        }
        let reader = peers[0];
        let sender = peers[below(4) as usize];
        let room = core.room(sender, reader, &who()).unwrap();
        let (mut messages, mut bytes, mut fds) = (0, 0, 0);
        // to anybody of the same user, or of another, from anybody
        loop {
            let n_bytes = below(1_500) as usize;
            let n_fds = if below(2) == 0 { below(4) } else { 0 };
            let charge = room.charge(n_bytes, n_fds as usize);
            let takes_fds = n_fds == 0 || fds + n_fds <= room.fds;
            if messages + 1 > room.messages || bytes + charge > room.bytes || !takes_fds {
                break;
            }
            let payload = Parts::from_iter([Bytes::from(vec![0; n_bytes])]);
            let is_elsewhere = below(2) == 0;
            let (from, to) = if is_elsewhere {
                (peers[below(4) as usize], peers[1 + below(3) as usize])
            } else {
                (sender, reader)
            };
            let result = core.deliver(from, to, &payload, n_bytes, &FDS[..n_fds as usize], &who());
            assert!(result.is_ok() || is_elsewhere, "{room:?}: {messages}, {bytes} and {fds}");
            if result.is_ok() {
                (messages, bytes, fds) = (messages + 1, bytes + charge, fds + n_fds);
            } else if below(20) == 0 {
                break;
            }
        }
    }
}

#[test]
#[ignore = "prints a measurement"]
fn speed() {
    let (mut core, one, two) = hosted();
    let payload = Parts::from_iter([Bytes::from(vec![0; 100])]);
    let credentials = who();
    for depth in [1, 64] {
        let rounds = 1_000_000 / depth;
        let start = Instant::now();
        for _ in 0..rounds {
            for _ in 0..depth {
                core.deliver(one, two, &payload, 100, &[], &credentials).unwrap();
            }
            for _ in 0..depth {
                core.take_front(two).unwrap();
            }
            core.unwake(two);
        }
        let each = start.elapsed().as_nanos() / (rounds * depth) as u128;
        println!("deliver and take_front, {depth} deep: {each} ns");
    }
}

#[test]
fn what_residents_take_is_taken_whole_or_left() {
    let (mut core, one, two) = hosted();
    core.take_woken();
    assert!(!core.comes_alone(two));
    core.deliver(one, two, &parts(b"hello"), 5, &[], &who()).unwrap();
    assert!(core.comes_alone(two));
    assert!(core.take_woken_of(|peer| peer != two).is_none());
    assert_eq!(core.woken(), [two]);
    assert_eq!(core.take_woken_of(|peer| peer == two).unwrap().as_slice(), [two]);
    assert!(!core.has_effects());
    let message = core.recv(two, 0, NO_LIMIT).unwrap();
    assert_eq!(core.published_payload(two, message.offset).unwrap().parts.as_slice(), [&b"hello"[..]]);
    core.slice_release(two, message.offset, message.serial, true).unwrap();
    assert!(core.published_payload(two, message.offset).is_none());
    core.deliver(one, two, &parts(b"hello"), 5, &[7], &who()).unwrap();
    assert!(!core.comes_alone(two));
    core.take_front(two).unwrap();
    assert!(core.take_woken_of(|_| true).is_none());
    assert_eq!(core.take_freed_fds(), [7]);
}

#[test]
#[ignore = "prints a measurement"]
fn sizes() {
    let all = [size_of::<Peer>(), size_of::<Node>(), size_of::<Handle>(), size_of::<Credentials>()];
    println!("bytes of a peer, its root, its handle, and who it is: {all:?}");
    let parts = [size_of::<Account>(), size_of::<Pool>(), size_of::<Memory>(), size_of::<Queue>()];
    println!("bytes in a peer of account, pool, where its bytes lie, and queue: {parts:?}");
}

#[test]
fn a_pool_at_rest_is_what_it_was_when_it_was_described() {
    let (mut core, one, two) = hosted();
    let pool = |core: &Core| {
        let pool = &core.peers.get(two).unwrap().pool;
        let segments: Vec<_> =
            pool.segments().iter().map(|segment| (segment.generation, segment.base)).collect();
        (segments, pool.generation, pool.n_slices(), pool.is_at_rest())
    };
    assert_eq!(pool(&core), (vec![], 0, 0, false));
    let large = Parts::from_iter([Bytes::from(vec![0; 3 << 20])]);
    core.deliver(one, two, &large, 3 << 20, &[], &who()).unwrap();
    assert_eq!(pool(&core), (vec![(1, 0)], 1, 1, false));
    core.take_front(two).unwrap();
    assert_eq!(pool(&core), (vec![], 1, 0, false));
    for generation in [2, 3] {
        core.deliver(one, two, &parts(b"x"), 1, &[], &who()).unwrap();
        core.take_front(two).unwrap();
        assert_eq!(pool(&core), (vec![(2, 0)], generation, 0, true), "what is small lies where it lay");
        assert_eq!(core.peers.get(two).unwrap().account.used(), [0, 1, 0, 0]);
        core.deliver(one, two, &large, 3 << 20, &[], &who()).unwrap();
        assert_eq!(pool(&core).0, [(2, 0), (generation + 1, 4 << 20)]);
        core.take_front(two).unwrap();
        assert_eq!(pool(&core), (vec![(2, 0)], generation + 1, 0, true));
    }
    core.peer_disconnect(two).unwrap();
    core.peer_disconnect(one).unwrap();
    assert!(core.users().is_empty() && core.nodes.is_empty());
}
