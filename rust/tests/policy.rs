//! Verdicts of large policies: the same as rule by rule; and, for people who ask (`--ignored`, in release), what one costs.

use bus1_native::tables::ClientPolicy;
use bus1_native::tables::policy::{Facts, MOST_FDS, Names, Rule, Space};
use std::collections::BTreeSet;
use std::hint::black_box;
use std::time::Instant;

/// Somebody with many names.
struct Peer(BTreeSet<String>);

impl Names for Peer {
    fn unique(&self) -> &str {
        ":1.7"
    }

    fn held(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    fn holds(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    fn holds_in(&self, space: &Space) -> bool {
        self.0.iter().any(|name| space.contains(name))
    }
}

fn peer(n_names: usize) -> Peer {
    Peer((0..n_names).map(|number| format!("org.example.Service{number}")).collect())
}

fn rule(allow: bool) -> Rule {
    Rule { allow, requested_reply: allow, max_fds: MOST_FDS, ..Rule::default() }
}

/// As a system's bus has them: calls go nowhere, but for the methods of services.
fn rules(n_services: usize, n_methods: usize) -> Vec<Rule> {
    let mut rules = vec![Rule { kind: 1, ..rule(false) }, Rule { kind: 4, ..rule(true) }];
    for service in 0..n_services {
        let name = Some(format!("org.example.Service{service}").into());
        rules.push(Rule { name: name.clone(), ..rule(false) });
        rules.extend((0..n_methods).map(|method| Rule {
            name: name.clone(),
            interface: Some("org.example.Manager".into()),
            member: Some(format!("Method{method}").into()),
            ..rule(true)
        }));
    }
    rules
}

fn call(member: &str) -> Facts<'_> {
    Facts {
        kind: 1,
        path: Some(b"/org/example"),
        interface: Some(b"org.example.Manager"),
        member: Some(member.as_bytes()),
        has_destination: true,
        ..Facts::default()
    }
}

/// The places of the rules without whose word the verdict on this call would be another.
fn deciding(member: &str, receiver: &Peer) -> Vec<usize> {
    let is_allowed =
        |rules| ClientPolicy::new(rules, vec![]).may_send(&call(member), receiver, false).allowed;
    let given = rules(20, 3);
    let said = is_allowed(given.clone());
    let turned = |place: &usize| {
        let mut rules = given.clone();
        rules[*place].allow ^= true;
        is_allowed(rules) != said
    };
    (0..given.len()).filter(turned).collect()
}

#[test]
fn of_many_names_and_many_rules_the_last_that_matches_decides() {
    for n_names in [0, 1, 19, 20, 21, 500] {
        let last = n_names.min(20);
        let receiver = peer(n_names);
        assert_eq!(deciding("Method1", &receiver), [if last == 0 { 0 } else { 2 + 4 * (last - 1) + 2 }]);
        assert_eq!(deciding("Other", &receiver), [if last == 0 { 0 } else { 2 + 4 * (last - 1) }]);
    }
}

#[test]
#[ignore = "a measurement"]
fn what_a_verdict_costs() {
    for (n_services, n_methods, n_names) in [(6, 25, 1), (50, 25, 1), (500, 2, 1), (500, 2, 5), (50, 2, 500)]
    {
        let policy = ClientPolicy::new(rules(n_services, n_methods), vec![]);
        let (receiver, message) = (peer(n_names), call("Method1"));
        let best = (0..200).map(|_| {
            let start = Instant::now();
            for _ in 0..1000 {
                assert!(policy.may_send(black_box(&message), black_box(&receiver), false).allowed);
            }
            start.elapsed().as_nanos() / 1000
        });
        let best = best.min().unwrap_or(0);
        println!("{n_services} services with {n_methods} methods, {n_names} names: {best} ns");
    }
}
