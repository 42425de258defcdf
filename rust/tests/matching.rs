//! Who gets a broadcast; and, for people who ask (`--ignored`, in release), what that costs.

use bus1_native::tables::{Argument, MatchIndex, MatchInput, MatchRule};
use std::hint::black_box;
use std::time::Instant;

fn rule(text: &str) -> MatchRule {
    MatchRule::parse(text).unwrap_or_else(|_| panic!("{text} is no rule"))
}

fn broadcast<R>(arguments: &[Argument<'_>], look: impl FnOnce(&mut MatchInput<'_>) -> R) -> R {
    let mut read = |out: &mut Vec<_>| out.extend_from_slice(arguments);
    look(&mut MatchInput {
        kind: 4,
        sender: ":1.1",
        sender_names: &["a.b"],
        path: Some("/a/b"),
        interface: Some("x.Y"),
        member: Some("M"),
        destination: None,
        destination_names: &[],
        arguments: &mut read,
    })
}

fn receivers(index: &MatchIndex, arguments: &[Argument<'_>]) -> Vec<u64> {
    let mut found = Vec::new();
    broadcast(arguments, |input| index.receivers(input, &mut found));
    found
}

#[test]
fn a_rule_matches_what_it_says() {
    use Argument::{Other, Path, Text};
    for (text, arguments, expected) in [
        ("", vec![], true),
        ("type='signal',interface='x.Y',member='M',path='/a/b'", vec![], true),
        ("type='error'", vec![], false),
        ("path_namespace='/a'", vec![], true),
        ("path_namespace='/'", vec![], true),
        ("path_namespace='/a/b/c'", vec![], false),
        ("sender='a.b'", vec![], true),
        ("sender=':1.2'", vec![], false),
        ("destination=':1.2'", vec![], false),
        ("eavesdrop='true'", vec![], true),
        ("arg0='x'", vec![Text("x")], true),
        ("arg0='/x'", vec![Path("/x")], false),
        ("arg0='',arg2='c'", vec![Text(""), Other, Text("c")], true),
        ("arg0path='/a/'", vec![Text("/a/b")], true),
        ("arg0path='/a/b'", vec![Path("/a/")], true),
        ("arg0path='/a'", vec![Text("/a/b")], false),
        ("arg0path='/'", vec![Path("/a")], true),
        ("arg0namespace='a.b'", vec![Text("a.b.c")], true),
        ("arg0namespace='a.b'", vec![Text("a.bc")], false),
        ("arg63='x'", vec![], false),
    ] {
        let mut index = MatchIndex::default();
        index.add(1, &rule(text));
        assert_eq!(receivers(&index, &arguments) == [1], expected, "{text} alone");
        // so that the way goes through nodes
        for more in ["", "member='N'", "arg62='y'"] {
            let comma = if text.is_empty() || more.is_empty() { "" } else { "," };
            if !text.contains("member") || more != "member='N'" {
                index.add(2, &rule(&format!("{text}{comma}{more}")));
            }
        }
        assert_eq!(receivers(&index, &arguments).contains(&1), expected, "{text}");
        index.drop_owner(2);
        assert_eq!(receivers(&index, &arguments) == [1], expected, "{text} again");
        assert_eq!(index.rules_of(1), [(rule(text), 1)]);
        assert!(index.remove(1, &rule(text)) && index.is_empty());
    }
}

#[test]
fn owners_come_once_in_the_order_of_their_first_rules() {
    let mut index = MatchIndex::default();
    for (owner, text) in [(5, "member='M'"), (3, ""), (9, "path='/a/b'"), (3, "member='M'"), (5, "")] {
        index.add(owner, &rule(text));
    }
    assert_eq!(receivers(&index, &[]), [5, 3, 9]);
    assert!(index.remove(5, &rule("")));
    assert_eq!(receivers(&index, &[]), [5, 3, 9]);
    index.drop_owner(5);
    index.add(5, &rule(""));
    assert_eq!(receivers(&index, &[]), [3, 9, 5]);
    assert_eq!((index.len(), index.count(3)), (3, 2));
}

#[test]
fn rules_that_name_a_unique_name_go_with_it_but_those_of_the_spared() {
    let mut index = MatchIndex::default();
    for owner in [1, 2, 3] {
        index.add(owner, &rule("sender=':1.7'"));
        index.add(owner, &rule("sender=':1.8'"));
    }
    index.forget_name(":1.7", |owner| owner == 3);
    assert_eq!(index.rules_of(1), [(rule("sender=':1.8'"), 1)]);
    assert_eq!((index.count(2), index.count(3)), (1, 2));
}

#[test]
fn arguments_are_not_read_for_rules_that_cannot_match_anyway() {
    let mut index = MatchIndex::default();
    for i in 0..100 {
        for text in [format!("member='N{i}',arg0='x'"), format!("type='error',arg2='x{i}'")] {
            index.add(i, &rule(&text));
        }
    }
    let mut fail = |_: &mut Vec<Argument<'_>>| panic!("nobody needs them");
    let mut found = Vec::new();
    let mut input: MatchInput<'_> = MatchInput {
        kind: 4,
        sender: ":1.1",
        sender_names: &[],
        path: Some("/a/b"),
        interface: Some("x.Y"),
        member: Some("M"),
        destination: None,
        destination_names: &[],
        arguments: &mut fail,
    };
    index.receivers(&mut input, &mut found);
    assert!(found.is_empty());
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = status.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.unwrap_or(0) * 4096
}

fn nanoseconds(n: u32, mut action: impl FnMut()) -> u128 {
    // the best of many short rounds: others may have the processor, too
    let n = n / 100;
    let best = (0..200).map(|_| {
        let start = Instant::now();
        (0..n).for_each(|_| action());
        start.elapsed().as_nanos() / u128::from(n)
    });
    best.min().unwrap_or(0)
}

#[test]
#[ignore = "a measurement"]
fn what_rules_cost() {
    for form in [
        "type='signal',interface='org.example.Thing',path='/org/example/things/{}'",
        "type='signal',interface='org.example.Thing',member='Changed',arg0='org.example.name{}'",
        "type='signal',interface='org.example.things.Number{}'",
        "type='signal',sender=':1.{}',interface='org.example.Thing'",
        "type='signal',interface='org.example.Thing',arg0path='/org/example/things/{}/'",
        "type='signal',path_namespace='/org/example/things/{}'",
    ] {
        let n = 100_000;
        let mut index = MatchIndex::default();
        index.add(7, &rule("type='signal',interface='x.Y',member='M'"));
        let arguments = [Argument::Text("org.example.other")];
        let mut found = Vec::new();
        let mut look = |index: &MatchIndex| {
            found.clear();
            broadcast(&arguments, |input| index.receivers(black_box(input), &mut found));
            assert_eq!(found, [7]);
        };
        let add = |index: &mut MatchIndex, numbers: std::ops::Range<u64>| {
            numbers.for_each(|i| index.add(i / 500, &rule(&form.replace("{}", &i.to_string()))));
        };
        add(&mut index, 0..10);
        let few = nanoseconds(100_000, || look(&index));
        let before = resident();
        add(&mut index, 10..n);
        let bytes = (resident() - before) / n as usize;
        let many = nanoseconds(100_000, || look(&index));
        println!("{bytes} B per rule, look {few} ns beside 10, {many} ns beside all: {form}");
        // so that its memory is not taken again
        std::mem::forget(index);
    }
}

#[test]
#[ignore = "a measurement"]
fn what_many_receivers_cost() {
    let mut index = MatchIndex::default();
    for owner in 0..100 {
        index.add(owner, &rule("type='signal',interface='x.Y'"));
    }
    let mut found = Vec::new();
    let mut look = |index: &MatchIndex| {
        found.clear();
        broadcast(&[], |input| index.receivers(black_box(input), &mut found));
        found.len()
    };
    println!("100 by one rule: {} ns", nanoseconds(20_000, || assert_eq!(look(&index), 100)));
    for owner in 0..100 {
        index.add(owner, &rule("type='signal',member='M'"));
    }
    println!("100 by two rules: {} ns", nanoseconds(20_000, || assert_eq!(look(&index), 100)));
}

#[test]
#[ignore = "a measurement"]
fn what_a_slot_costs() {
    let mut table = bus1_native::tables::ReplyTable::default();
    for busy in [0, 10_000] {
        for i in 0..busy {
            assert!(table.add(10 + i, 5, 1, 0.0).is_ok());
        }
        let mut serial = 0;
        let cost = nanoseconds(1_000_000, || {
            serial += 1;
            assert!(table.add(1, 2, black_box(serial), 0.0).is_ok());
            assert!(table.take(1, 2, black_box(serial)));
        });
        println!("add and take beside {busy} slots: {cost} ns");
    }
}
