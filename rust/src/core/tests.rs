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
