//! Policy: what the rules say about clients of one kind, of one message.
//!
//! Theory. The rules come in their order, and the last that matches decides; where none does the answer is no.
//! Rules are filed by the name that they are about, and then by interface or by type. A message looks at the rules for
//! everybody, for the names of its peer, and for the spaces that one of these is in: each time at those for its own
//! interface, and at those for any. Of each such list, latest first, the first that applies counts, unless a later one
//! was found before.
//!
//! Invariants. 1. The verdict is that of the last matching rule. 2. A look-up allocates nothing, and costs what the
//! rules cost that are about the message's type or interface and the peer's names, and one question for each space.
//!
//! Not here: which rules concern whom (Python), words for a refusal (Python), what is done with it (`lane::verdict`).

use ahash::AHashMap;

use crate::dbus::SIGNAL;

/// Beyond the protocol's maximum of descriptors: any number.
pub const MOST_FDS: u32 = 33_554_432;
/// Types of messages that have lists of their own; all others share one.
const KINDS: usize = 5;

/// One rule about sending or receiving; what it doesn't ask for is None.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Its word.
    pub allow: bool,
    /// Of messages; 0 for any.
    pub kind: u8,
    /// Of the member.
    pub interface: Option<Box<str>>,
    /// The method or signal.
    pub member: Option<Box<str>>,
    /// The error's name.
    pub error: Option<Box<str>>,
    /// Of the object.
    pub path: Option<Box<str>>,
    /// Whom it is about.
    pub name: Option<Box<str>>,
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

/// What rules look at in one message; texts as they lie in it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'m> {
    /// The message's type.
    pub kind: u8,
    /// Of the object.
    pub path: Option<&'m [u8]>,
    /// Of the member.
    pub interface: Option<&'m [u8]>,
    /// The method or signal.
    pub member: Option<&'m [u8]>,
    /// Of an error.
    pub error_name: Option<&'m [u8]>,
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
    /// Whether one of them is in a space.
    fn holds_in(&self, space: &Space) -> bool;
}

/// A name, and all that continue it after a dot.
#[derive(Clone, Debug)]
pub struct Space {
    dotted: Box<str>,
}

impl Space {
    /// That of a name.
    pub fn new(name: &str) -> Self {
        Self { dotted: format!("{name}.").into() }
    }

    /// The name itself.
    pub fn name(&self) -> &str {
        &self.dotted[..self.dotted.len() - 1]
    }

    /// What all others in it begin with.
    pub fn dotted(&self) -> &str {
        &self.dotted
    }

    /// Whether a name is in it.
    pub fn contains(&self, name: &str) -> bool {
        name == self.name() || name.starts_with(self.dotted())
    }
}

/// The answer to one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the message may pass.
    pub allowed: bool,
    /// It passes, but that is to be reported.
    pub log: bool,
}

/// What the rules say about clients of one kind.
#[derive(Debug, Default)]
pub struct ClientPolicy {
    sent: Filed,
    received: Filed,
}

impl ClientPolicy {
    /// The rules about sending and about receiving, each in their order.
    pub fn new(sent: Vec<Rule>, received: Vec<Rule>) -> ClientPolicy {
        ClientPolicy { sent: Filed::new(sent, false), received: Filed::new(received, true) }
    }

    /// Whether it may send this; `requested`: the receiver waits for this answer.
    pub fn may_send(&self, message: &Facts<'_>, receiver: &impl Names, requested: bool) -> Verdict {
        self.sent.verdict(message, receiver, requested)
    }

    /// Whether it may receive this, which is no copy of what is addressed to somebody else.
    pub fn may_receive(&self, message: &Facts<'_>, sender: &impl Names, requested: bool) -> Verdict {
        self.received.verdict(message, sender, requested)
    }

    /// To what it may send, all who hold no well-known name are the same.
    pub fn sends_to_all_unnamed_alike(&self) -> bool {
        !self.sent.has_unique
    }
}

/// Places of rules, the latest first.
type Places = Vec<u32>;

/// The rules about one name, or one space, or everybody.
#[derive(Debug, Default)]
struct About {
    /// For any interface, by type.
    any_interface: [Places; KINDS],
    /// Those with an interface that deny: without an interface, what denies one denies all.
    denials: Places,
    by_interface: AHashMap<Box<[u8]>, Places>,
}

impl About {
    fn file(&mut self, place: u32, rule: &Rule) {
        let Some(interface) = &rule.interface else {
            for (kind, places) in self.any_interface.iter_mut().enumerate() {
                if rule.kind == 0 || usize::from(rule.kind) == kind {
                    places.push(place);
                }
            }
            return;
        };
        self.by_interface.entry(interface.as_bytes().into()).or_default().push(place);
        if !rule.allow {
            self.denials.push(place);
        }
    }
}

#[derive(Debug, Default)]
struct Filed {
    rules: Vec<Rule>,
    receives: bool,
    /// A rule may be about a unique name.
    has_unique: bool,
    everybody: About,
    names: AHashMap<Box<str>, About>,
    spaces: Vec<(Space, About)>,
}

impl Filed {
    fn new(rules: Vec<Rule>, receives: bool) -> Filed {
        let mut filed = Filed { receives, ..Filed::default() };
        let mut spaces: AHashMap<&str, About> = AHashMap::new();
        for (place, rule) in rules.iter().enumerate().rev() {
            let about = match &rule.name {
                None => &mut filed.everybody,
                Some(name) if rule.is_prefix => spaces.entry(name).or_default(),
                Some(name) => filed.names.entry(name.clone()).or_default(),
            };
            about.file(place as u32, rule);
            filed.has_unique |= rule.name.as_ref().is_some_and(|name| name.starts_with(':'));
        }
        filed.spaces = spaces.into_iter().map(|(name, about)| (Space::new(name), about)).collect();
        filed.rules = rules;
        filed
    }

    fn verdict(&self, message: &Facts<'_>, peer: &impl Names, requested: bool) -> Verdict {
        let mut search = Search { filed: self, message, requested, found: None };
        search.look(&self.everybody);
        if !self.names.is_empty() {
            let held = peer.held();
            if held.len() <= self.names.len() {
                held.filter_map(|name| self.names.get(name)).for_each(|about| search.look(about));
            } else {
                let about = self.names.iter().filter(|(name, _)| peer.holds(name));
                about.for_each(|(_, about)| search.look(about));
            }
            if let Some(about) = self.names.get(peer.unique()) {
                search.look(about);
            }
        }
        for (space, about) in &self.spaces {
            if space.contains(peer.unique()) || peer.holds_in(space) {
                search.look(about);
            }
        }
        let rule = search.found.map(|(_, rule)| rule);
        Verdict {
            allowed: rule.is_some_and(|rule| rule.allow),
            log: rule.is_some_and(|rule| rule.allow && rule.log),
        }
    }
}

/// The look for the last rule that matches one message.
struct Search<'s> {
    filed: &'s Filed,
    message: &'s Facts<'s>,
    requested: bool,
    found: Option<(u32, &'s Rule)>,
}

impl<'s> Search<'s> {
    fn look(&mut self, about: &'s About) {
        let kind = usize::from(self.message.kind);
        self.scan(&about.any_interface[if kind < KINDS { kind } else { 0 }]);
        match self.message.interface {
            None => self.scan(&about.denials),
            Some(interface) => {
                if let Some(places) = about.by_interface.get(interface) {
                    self.scan(places);
                }
            }
        }
    }

    fn scan(&mut self, places: &[u32]) {
        for &place in places {
            if self.found.is_some_and(|(found, _)| found > place) {
                return;
            }
            let Some(rule) = self.filed.rules.get(place as usize) else { continue };
            if self.applies(rule) {
                self.found = Some((place, rule));
                return;
            }
        }
    }

    /// The conditions beside name and interface.
    fn applies(&self, rule: &Rule) -> bool {
        let message = self.message;
        if rule.kind != 0 && rule.kind != message.kind {
            return false;
        }
        if message.is_reply {
            if self.requested {
                if !rule.allow && !rule.requested_reply {
                    return false;
                }
            } else if rule.allow && rule.requested_reply && !rule.eavesdrop {
                return false;
            }
        }
        if self.filed.receives && rule.eavesdrop && !rule.allow {
            // it is about copies alone
            return false;
        }
        let is_broadcast = !message.has_destination && message.kind == SIGNAL;
        rule.broadcast.is_none_or(|broadcast| broadcast == is_broadcast)
            && meets(&rule.path, message.path)
            && meets(&rule.member, message.member)
            && meets(&rule.error, message.error_name)
            && (rule.min_fds..=rule.max_fds).contains(&message.unix_fds)
    }
}

fn meets(asked: &Option<Box<str>>, given: Option<&[u8]>) -> bool {
    asked.as_deref().is_none_or(|asked| given.is_none_or(|given| given == asked.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::{ClientPolicy, Facts, MOST_FDS, Names, Rule, Space, Verdict};

    struct Listed(&'static [&'static str]);

    impl Names for Listed {
        fn unique(&self) -> &str {
            ":1.1"
        }

        fn held(&self) -> impl ExactSizeIterator<Item = &str> {
            self.0.iter().copied()
        }

        fn holds(&self, name: &str) -> bool {
            self.0.contains(&name)
        }

        fn holds_in(&self, space: &Space) -> bool {
            self.0.iter().any(|name| space.contains(name))
        }
    }

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
        let said = |held, interface: Option<&'static str>| {
            let interface = interface.map(str::as_bytes);
            let message = Facts { kind: 1, interface, has_destination: true, ..Facts::default() };
            policy.may_send(&message, &Listed(held), false)
        };
        let verdict = |allowed, log| Verdict { allowed, log };
        assert_eq!(said(&[], Some("x.Y")), verdict(true, false));
        assert_eq!(said(&["a.b"], Some("x.Z")), verdict(false, false));
        assert_eq!(said(&["a.b"], Some("x.Y")), verdict(true, true));
        assert_eq!(said(&["a.b"], None), verdict(false, false));
        assert_eq!(said(&["a.b", "c.d"], Some("x.Y")), verdict(false, false));
        assert_eq!(said(&["cd"], Some("x.Y")), verdict(true, false));
    }

    #[test]
    fn without_a_rule_nothing_is_allowed() {
        let verdict = ClientPolicy::default().may_receive(&Facts::default(), &Listed(&[]), false);
        assert_eq!(verdict, Verdict { allowed: false, log: false });
    }

    #[test]
    fn a_rule_about_a_unique_name_tells_those_without_others_apart() {
        let about = |name: &str| {
            let rules = vec![rule(true), Rule { name: Some(name.into()), ..rule(false) }];
            ClientPolicy::new(rules, vec![])
        };
        assert!(about("a.b").sends_to_all_unnamed_alike());
        assert!(!about(":1.1").sends_to_all_unnamed_alike());
        assert!(!about(":1.1").may_send(&Facts::default(), &Listed(&[]), false).allowed);
    }
}
