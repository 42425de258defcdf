//! The client's half of a channel, driven with bytes.

use bus1_native::client::answer::{Failure, Refusal};
use bus1_native::client::exchange::{Exchange, Step};
use bus1_native::client::protocol as wire;

type Side = Exchange<&'static str>;

fn frame(operation: u16, tag: u64, body: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    data.extend((wire::HEADER_SIZE as u32 + body.len() as u32).to_le_bytes());
    data.extend(operation.to_le_bytes());
    data.extend(0u16.to_le_bytes());
    data.extend(tag.to_le_bytes());
    data.extend(body);
    data
}

fn answer(operation: u16, tag: u64, code: u32, notes: u16, rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(code.to_le_bytes());
    body.extend(0u16.to_le_bytes());
    body.extend(notes.to_le_bytes());
    body.extend(rest);
    frame(operation | wire::ANSWER, tag, &body)
}

fn message(tag: u64, destination: u64, notes: u16) -> Vec<u8> {
    let fields = wire::result_fields(wire::RECV).unwrap();
    let mut rest = vec![0; wire::size_of(fields)];
    rest[16..24].copy_from_slice(&destination.to_le_bytes());
    answer(wire::RECV, tag, 0, notes, &rest)
}

fn feed(side: &mut Side, data: &[u8]) -> Vec<(&'static str, Refusal)> {
    let mut failed = Vec::new();
    side.reader.feed(data, [], false);
    loop {
        match side.step() {
            Step::Nothing => return failed,
            Step::Done => {}
            Step::Failed(listener, refusal) => failed.push((listener, refusal)),
        }
    }
}

#[test]
fn answers_are_taken_by_tag_however_the_bytes_are_cut() {
    let mut side = Side::default();
    let first = side.request(0x110, &[0; 8], Vec::new()).unwrap();
    let second = side.request(0x110, &[0; 8], Vec::new()).unwrap();
    let mut data = answer(0x110, second, 0, 0, b"");
    data.extend(answer(0x110, first, 95, 0, b"no"));
    for byte in data {
        feed(&mut side, &[byte]);
    }
    let refused = side.take(first).unwrap().error.unwrap();
    assert_eq!((refused.code, refused.text.as_slice()), (95, b"no".as_slice()));
    assert!(side.take(second).unwrap().error.is_none());
    assert!(!side.expects(first) && side.take(second).is_none());
}

#[test]
fn a_quiet_request_is_settled_by_a_later_answer_or_fails_by_its_own() {
    let mut side = Side::default();
    side.post(wire::SEND, &[&[0; 40]], "first");
    side.post(wire::SEND, &[&[0; 40]], "second");
    let tag = side.request(0x110, &[0; 8], Vec::new()).unwrap();
    let failed = feed(&mut side, &answer(wire::SEND, 2, 113, 0, b"gone"));
    assert_eq!(failed.len(), 1);
    assert_eq!((failed[0].0, failed[0].1.code), ("second", 113));
    assert_eq!(side.silent, ["first"]);
    assert!(feed(&mut side, &answer(0x110, tag, 0, 0, b"")).is_empty());
    assert!(side.take(tag).is_some());
}

#[test]
fn a_message_for_nobody_is_the_outcome_of_the_next_recv() {
    let mut side = Side::default();
    let early = side.request(wire::RECV, &[0; 24], Vec::new()).unwrap();
    let late = side.request(wire::RECV, &[0; 24], Vec::new()).unwrap();
    feed(&mut side, &message(early, 0x20, wire::MORE));
    side.recall(early);
    side.abandon(early);
    feed(&mut side, &message(early, 0x30, 0));
    assert_eq!(side.answered(), [late]);
    let taken: Vec<u64> = [late, late]
        .into_iter()
        .filter_map(|tag| side.take(tag))
        .map(|answer| wire::u64_at(answer.fixed().1, 16).unwrap())
        .collect();
    assert_eq!(taken, [0x20, 0x30]);
}

#[test]
fn nonsense_ends_the_channel_and_is_said() {
    for data in [
        frame(0x4444, 1, b""),
        answer(0x110, 7, 0, 0, b""),
        frame(wire::RETIRED, 0, b""),
        vec![3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        let mut side = Side::default();
        let tag = side.request(0x110, &[0; 8], Vec::new()).unwrap();
        feed(&mut side, &data);
        assert!(matches!(side.failure(), Some(Failure::Broken(_))));
        assert!(side.take(tag).is_none() && side.expects(tag) && side.writer.pending() == 0);
    }
}
