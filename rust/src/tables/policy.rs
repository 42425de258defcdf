//! Policy: what the rules say about clients of one kind, of one message.
//!
//! Theory. The rules come in their order, and the last that matches decides; where none does the answer is no.
//! Rules are filed by the name and the interface that they are about. A message looks at the rules for everybody,
//! for the names of its peer, and for the spaces that one of these is in, each for its own interface and for any:
//! of each such list, latest first, at the first that applies, unless a later one was found before.
//!
//! Invariants. 1. The verdict is that of the last matching rule. 2. A look-up allocates nothing, and costs what the
//! rules cost that are about the message's interface and the peer's names.
//!
//! Not here: compiling rules (Python), words for a refusal (Python).

use ahash::RandomState;
use std::collections::HashMap;

const SIGNAL: u8 = 4;
/// Beyond the protocol's maximum of descriptors: any number.
pub const MOST_FDS: u32 = 33_554_432;

/// One rule about sending or receiving; what it doesn't ask for is None.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Its word.
    pub allow: bool,
    /// Of messages; 0 for any.
    pub kind: u8,
    /// Of the member.
    pub interface: Option<String>,
    /// The method or signal.
    pub member: Option<String>,
    /// The error's name.
    pub error: Option<String>,
    /// Of the object.
    pub path: Option<String>,
    /// Whom it is about.
    pub name: Option<String>,
    /// `name` stands for itself and for what continues it after a dot.
    pub is_prefix: bool,
    /// Which answers it is about.
    pub requested_reply: bool,
    /// Whether it is about copies.
    pub eavesdrop: bool,
    /// Whether it is about broadcasts alone, or about all others.
    pub broadcast: Option<bool>,
    /// The fewest descriptors.
    pub min_fds: u32,
    /// The most descriptors.
    pub max_fds: u32,
    /// What it allows is to be reported.
    pub log: bool,
}

/// What rules look at in one message.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'m> {
    /// The message's type.
    pub kind: u8,
    /// Of the object.
    pub path: Option<&'m str>,
    /// Of the member.
    pub interface: Option<&'m str>,
    /// The method or signal.
    pub member: Option<&'m str>,
    /// Of an error.
    pub error_name: Option<&'m str>,
    /// Whether it is addressed.
    pub has_destination: bool,
    /// It is an answer, whatever its type.
    pub is_reply: bool,
    /// How many descriptors come with it.
    pub unix_fds: u32,
}

/// The names of one peer.
pub trait Names {
    /// Its unique name, or the only one that it has.
    fn unique(&self) -> &str;
    /// The well-known names that it owns or waits for.
    fn held(&self) -> impl ExactSizeIterator<Item = &str>;
    /// Whether a name is one of them.
    fn holds(&self, name: &str) -> bool;
    /// Whether one of them is `space`, or continues it after a dot.
    fn holds_in(&self, space: &str) -> bool {
        self.held().any(|name| is_within(name, space))
    }
}

/// A unique name with a list of others.
#[derive(Clone, Copy)]
pub struct Listed<'n, S> {
    /// The unique name.
    pub unique: &'n str,
    /// Those that it owns or waits for.
    pub held: &'n [S],
}

impl<S: AsRef<str>> Names for Listed<'_, S> {
    fn unique(&self) -> &str {
        self.unique
    }

    fn held(&self) -> impl ExactSizeIterator<Item = &str> {
        self.held.iter().map(AsRef::as_ref)
    }

    fn holds(&self, name: &str) -> bool {
        self.held.iter().any(|held| held.as_ref() == name)
    }
}

/// The answer to one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the message may pass.
    pub allowed: bool,
    /// It passes, but that is to be reported.
    pub log: bool,
    /// The rule that decides, by its place; None if no rule does.
    pub rule: Option<usize>,
}

/// What the rules say about clients of one kind.
#[derive(Default)]
pub struct ClientPolicy {
    sent: Filed,
    received: Filed,
    /// It may send everything to everybody.
    pub sends_all: bool,
    /// It may receive everything from everybody.
    pub receives_all: bool,
}

impl ClientPolicy {
    /// The rules about sending and about receiving, each in their order, without those that a later one overrules in
    /// any case.
    pub fn new(sent: Vec<Rule>, received: Vec<Rule>) -> ClientPolicy {
        ClientPolicy {
            sends_all: allow_all(&sent, false),
            receives_all: allow_all(&received, true),
            sent: Filed::new(sent, false),
            received: Filed::new(received, true),
        }
    }

    /// Whether it may send this; `requested`: the receiver waits for this answer.
    pub fn may_send(&self, message: &Facts<'_>, receiver: &impl Names, requested: bool) -> Verdict {
        self.sent.verdict(message, receiver, requested, false)
    }

    /// Whether it may receive this, which is addressed to somebody else if it eavesdrops.
    pub fn may_receive(
        &self,
        message: &Facts<'_>,
        sender: &impl Names,
        requested: bool,
        eavesdropping: bool,
    ) -> Verdict {
        self.received.verdict(message, sender, requested, eavesdropping)
    }
}

/// Places of rules, the latest first.
type Places = Vec<u32>;

/// The rules about one name, or one space, or everybody.
#[derive(Default)]
struct About {
    any_interface: Places,
    /// Those with an interface that deny: without an interface, what denies one denies all.
    denials: Places,
    by_interface: HashMap<String, Places, RandomState>,
}

#[derive(Default)]
struct Filed {
    rules: Vec<Rule>,
    receives: bool,
    everybody: About,
    names: HashMap<String, About, RandomState>,
    spaces: HashMap<String, About, RandomState>,
}

impl Filed {
    fn new(rules: Vec<Rule>, receives: bool) -> Filed {
        let mut filed = Filed { receives, ..Filed::default() };
        for (place, rule) in rules.iter().enumerate().rev() {
            let place = place as u32;
            let about = match &rule.name {
                None => &mut filed.everybody,
                Some(name) if rule.is_prefix => filed.spaces.entry(name.clone()).or_default(),
                Some(name) => filed.names.entry(name.clone()).or_default(),
            };
            let Some(interface) = &rule.interface else {
                about.any_interface.push(place);
                continue;
            };
            about.by_interface.entry(interface.clone()).or_default().push(place);
            if !rule.allow {
                about.denials.push(place);
            }
        }
        filed.rules = rules;
        filed
    }

    fn verdict(
        &self,
        message: &Facts<'_>,
        peer: &impl Names,
        requested: bool,
        eavesdropping: bool,
    ) -> Verdict {
        let mut found = None;
        let mut look = |about: &About| {
            let of_interface = match message.interface {
                None => Some(&about.denials),
                Some(interface) => about.by_interface.get(interface),
            };
            for places in [Some(&about.any_interface), of_interface].into_iter().flatten() {
                let later = places.iter().take_while(|place| found.is_none_or(|found| **place > found));
                let mut applying = later.filter(|place| {
                    let rule = &self.rules[**place as usize];
                    applies(rule, message, self.receives, requested, eavesdropping)
                });
                found = applying.next().copied().or(found);
            }
        };
        look(&self.everybody);
        if !self.names.is_empty() {
            self.names.get(peer.unique()).map(&mut look);
            let held = peer.held();
            if held.len() <= self.names.len() {
                held.filter_map(|name| self.names.get(name)).for_each(&mut look);
            } else {
                let about = self.names.iter().filter(|(name, _)| peer.holds(name));
                about.for_each(|(_, about)| look(about));
            }
        }
        for (space, about) in &self.spaces {
            if is_within(peer.unique(), space) || peer.holds_in(space) {
                look(about);
            }
        }
        let rule = found.map(|place| &self.rules[place as usize]);
        Verdict {
            allowed: rule.is_some_and(|rule| rule.allow),
            log: rule.is_some_and(|rule| rule.allow && rule.log),
            rule: found.map(|place| place as usize),
        }
    }
}

/// Nothing is refused: the first allows everything, and none takes anything back or reports it.
fn allow_all(rules: &[Rule], receives: bool) -> bool {
    let is_total = |rule: &Rule| {
        let asks = [&rule.interface, &rule.member, &rule.error, &rule.path, &rule.name];
        let counts_fds = rule.min_fds > 0 || rule.max_fds < MOST_FDS;
        let has_conditions = rule.kind != 0
            || asks.iter().any(|text| text.is_some())
            || rule.broadcast.is_some()
            || counts_fds;
        !has_conditions && (rule.eavesdrop || (!receives && !rule.requested_reply))
    };
    rules.first().is_some_and(is_total) && rules.iter().all(|rule| rule.allow && !rule.log)
}

fn is_within(name: &str, space: &str) -> bool {
    name.strip_prefix(space).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The conditions beside name and interface.
fn applies(rule: &Rule, message: &Facts<'_>, receives: bool, requested: bool, eavesdropping: bool) -> bool {
    if message.is_reply {
        if requested {
            if !rule.allow && !rule.requested_reply {
                return false;
            }
        } else if rule.allow && rule.requested_reply && !rule.eavesdrop {
            return false;
        }
    }
    if receives && rule.eavesdrop != eavesdropping && rule.allow == eavesdropping {
        // an allow rule without eavesdrop is not about copies, a deny rule with it is about nothing else
        return false;
    }
    let is_broadcast = !message.has_destination && message.kind == SIGNAL;
    (rule.kind == 0 || rule.kind == message.kind)
        && rule.broadcast.is_none_or(|broadcast| broadcast == is_broadcast)
        && meets(&rule.path, message.path)
        && meets(&rule.member, message.member)
        && meets(&rule.error, message.error_name)
        && (rule.min_fds..=rule.max_fds).contains(&message.unix_fds)
}

fn meets(asked: &Option<String>, given: Option<&str>) -> bool {
    asked.as_deref().is_none_or(|asked| given.is_none_or(|given| given == asked))
}

#[cfg(test)]
mod tests {
    use super::{ClientPolicy, Facts, Listed, MOST_FDS, Rule, Verdict};

    fn rule(allow: bool) -> Rule {
        Rule { allow, requested_reply: allow, max_fds: MOST_FDS, ..Rule::default() }
    }

    #[test]
    fn the_last_rule_that_matches_decides() {
        let rules = vec![
            rule(true),
            Rule { name: Some("a.b".into()), ..rule(false) },
            Rule { name: Some("a.b".into()), interface: Some("x.Y".into()), log: true, ..rule(true) },
            Rule { name: Some("c".into()), is_prefix: true, ..rule(false) },
        ];
        let policy = ClientPolicy::new(rules, vec![]);
        let said = |held: &[&str], interface| {
            let message = Facts { kind: 1, interface, has_destination: true, ..Facts::default() };
            policy.may_send(&message, &Listed { unique: ":1.1", held }, false)
        };
        let verdict = |allowed, log, rule| Verdict { allowed, log, rule: Some(rule) };
        assert_eq!(said(&[], Some("x.Y")), verdict(true, false, 0));
        assert_eq!(said(&["a.b"], Some("x.Z")), verdict(false, false, 1));
        assert_eq!(said(&["a.b"], Some("x.Y")), verdict(true, true, 2));
        assert_eq!(said(&["a.b"], None), verdict(false, false, 1));
        assert_eq!(said(&["a.b", "c.d"], Some("x.Y")), verdict(false, false, 3));
        assert_eq!(said(&["cd"], Some("x.Y")), verdict(true, false, 0));
    }

    #[test]
    fn without_a_rule_nothing_is_allowed() {
        let held: &[&str] = &[];
        let verdict = ClientPolicy::default().may_receive(
            &Facts::default(),
            &Listed { unique: ":1.1", held },
            false,
            false,
        );
        assert_eq!(verdict, Verdict { allowed: false, log: false, rule: None });
    }
}
