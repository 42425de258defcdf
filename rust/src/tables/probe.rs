//! Probe: the rules that match one message.
//!
//! Theory. The message goes down the tree of rules: at each node it asks every branch for the few values that it
//! meets there: its own text, the beginnings of it, or, where a path of the message may stand above the rule's,
//! one range of the sorted values. Its texts are looked up once each, when they are first asked for; one that is
//! in no rule leads nowhere. Arguments are read when a rule asks for them that matches so far.
//!
//! Invariants. 1. The nodes that a message visits are those whose conditions it meets, all of them. 2. A message
//! asks at most `MAX_TEXT` values that are not there of one branch, however long its texts are.
//!
//! Not here: whose the rules are (`matching`).

use super::rule::{Form, MAX_TEXT};
use super::slab::NONE;
use super::tree::{Condition, EAVESDROPPING, Edge, PLAIN, RULE, Tree, argument_of, key};
use std::ops::Bound;

pub use crate::dbus::arguments::Argument;

/// Appends the first arguments (at most 64 are looked at).
pub type ReadArguments<'m> = dyn FnMut(&mut Vec<Argument<'m>>) + 'm;

/// What rules look at in one message.
pub struct MatchInput<'m, S: AsRef<str> = &'m str> {
    /// The message's type.
    pub kind: u8,
    /// Unique name of the sender, or `org.freedesktop.DBus`.
    pub sender: &'m str,
    /// Well-known names that the sender is primary owner of.
    pub sender_names: &'m [S],
    /// Object path.
    pub path: Option<&'m str>,
    /// Interface.
    pub interface: Option<&'m str>,
    /// Method or signal.
    pub member: Option<&'m str>,
    /// Unique name of the addressed recipient (or the text of DESTINATION); None for a broadcast.
    pub destination: Option<&'m str>,
    /// Well-known names that the recipient is primary owner of.
    pub destination_names: &'m [S],
    /// Called at most once for one look, and only if a rule needs them.
    pub arguments: &'m mut ReadArguments<'m>,
}

/// Not looked up yet.
const UNKNOWN: u32 = NONE - 1;

/// One message on its way through the tree.
pub(super) struct Probe<'p, 'm, S: AsRef<str>> {
    tree: &'p Tree,
    input: &'p mut MatchInput<'m, S>,
    /// Interface, member, path: symbols, `NONE` for what is in no rule.
    place: [u32; 3],
    senders: Option<Vec<u32>>,
    recipients: Option<Vec<u32>>,
    above: Option<Vec<u32>>,
    arguments: Option<Vec<Argument<'m>>>,
    /// By key: the values of arguments that are in some rule.
    values: Vec<(u8, Vec<u32>)>,
    found: Vec<u32>,
}

impl<'p, 'm, S: AsRef<str>> Probe<'p, 'm, S> {
    pub fn new(tree: &'p Tree, input: &'p mut MatchInput<'m, S>) -> Self {
        Probe {
            tree,
            input,
            place: [UNKNOWN; 3],
            senders: None,
            recipients: None,
            above: None,
            arguments: None,
            values: Vec::new(),
            found: Vec::new(),
        }
    }

    /// The numbers of the rules that match; one may come twice.
    pub fn matching(mut self) -> Vec<u32> {
        if self.input.destination.is_none() {
            self.visit(PLAIN);
        }
        self.visit(EAVESDROPPING);
        self.found
    }

    fn visit(&mut self, node: u32) {
        let here = &self.tree.nodes[node];
        if here.rule != NONE {
            self.found.push(here.rule);
        }
        for &(key, _) in &here.branches {
            match key {
                key::TYPE => self.follow(node, key, u32::from(self.input.kind)),
                key::INTERFACE | key::MEMBER | key::PATH => {
                    let symbol = self.place(key);
                    self.follow(node, key, symbol);
                }
                key::SENDER | key::DESTINATION | key::PATH_NAMESPACE => {
                    for i in 0..self.several(key).len() {
                        let symbol = self.several(key)[i];
                        self.follow(node, key, symbol);
                    }
                }
                _ => self.follow_argument(node, key),
            }
        }
    }

    fn follow(&mut self, node: u32, key: u8, symbol: u32) {
        if symbol == NONE {
            return;
        }
        match self.tree.edges.get(&Edge { node, symbol, key }).copied() {
            None => {}
            Some(target) if target & RULE == 0 => self.visit(target),
            Some(target) => {
                let number = target & !RULE;
                let conditions = &self.tree.rules[number].conditions;
                let rest = conditions.iter().filter(|condition| condition.key > key);
                for &condition in rest {
                    if !self.meets(condition) {
                        return;
                    }
                }
                self.found.push(number);
            }
        }
    }

    fn follow_argument(&mut self, node: u32, key: u8) {
        let at = match self.values.iter().position(|(other, _)| *other == key) {
            Some(at) => at,
            None => {
                let symbols = self.values_of(key);
                self.values.push((key, symbols));
                self.values.len() - 1
            }
        };
        for i in 0..self.values[at].1.len() {
            let symbol = self.values[at].1[i];
            self.follow(node, key, symbol);
        }
        let (index, form) = argument_of(key);
        if form != Form::Path {
            return;
        }
        let (Argument::Text(text) | Argument::Path(text)) = self.argument(index) else {
            return;
        };
        if !text.ends_with('/') || text.len() > MAX_TEXT {
            return;
        }
        let Some(sorted) = self.tree.sorted.get(&(node, key)) else {
            return;
        };
        for value in sorted.range::<str, _>((Bound::Excluded(text), Bound::Unbounded)) {
            if !value.starts_with(text) {
                break;
            }
            let symbol = self.symbol(value);
            self.follow(node, key, symbol);
        }
    }

    // ---- the message's texts as symbols ----------------------------------------------------------

    fn symbol(&self, text: &str) -> u32 {
        self.tree.symbols.find(text).unwrap_or(NONE)
    }

    fn place(&mut self, key: u8) -> u32 {
        let at = usize::from(key - key::INTERFACE);
        if self.place[at] == UNKNOWN {
            let texts = [self.input.interface, self.input.member, self.input.path];
            self.place[at] = texts[at].map_or(NONE, |text| self.symbol(text));
        }
        self.place[at]
    }

    /// The values of the sender, destination or path namespace branches.
    fn several(&mut self, key: u8) -> &[u32] {
        let tree = self.tree;
        let known = |text: &str| tree.symbols.find(text);
        let input = &*self.input;
        match key {
            key::SENDER => self.senders.get_or_insert_with(|| {
                let names = input.sender_names.iter().map(AsRef::as_ref);
                std::iter::once(input.sender).chain(names).filter_map(known).collect()
            }),
            key::DESTINATION => self.recipients.get_or_insert_with(|| match input.destination {
                None => Vec::new(),
                Some(unique) => {
                    let names = input.destination_names.iter().map(AsRef::as_ref);
                    std::iter::once(unique).chain(names).filter_map(known).collect()
                }
            }),
            _ => self.above.get_or_insert_with(|| match input.path {
                None => Vec::new(),
                Some(path) => {
                    let root = (path != "/").then_some("/");
                    root.into_iter().chain(beginnings(path, b'/', 0)).filter_map(known).collect()
                }
            }),
        }
    }

    fn values_of(&mut self, key: u8) -> Vec<u32> {
        let (index, form) = argument_of(key);
        let symbols = &self.tree.symbols;
        match (form, self.argument(index)) {
            (_, Argument::Other) | (Form::Text | Form::Namespace, Argument::Path(_)) => Vec::new(),
            (Form::Text, Argument::Text(text)) => {
                let is_short = text.len() <= MAX_TEXT;
                is_short.then(|| symbols.find(text)).flatten().into_iter().collect()
            }
            (Form::Namespace, Argument::Text(text)) => {
                let texts = beginnings(text, b'.', 0);
                texts.filter_map(|text| symbols.find(text)).collect()
            }
            (Form::Path, Argument::Text(text) | Argument::Path(text)) => {
                let texts = beginnings(text, b'/', 1);
                texts.filter_map(|text| symbols.find(text)).collect()
            }
        }
    }

    fn argument(&mut self, index: u8) -> Argument<'m> {
        let input = &mut *self.input;
        let arguments = self.arguments.get_or_insert_with(|| {
            let mut arguments = Vec::new();
            (input.arguments)(&mut arguments);
            arguments
        });
        let found = arguments.get(usize::from(index));
        found.copied().unwrap_or(Argument::Other)
    }

    // ---- the conditions of a rule that is alone below an edge ------------------------------------

    fn meets(&mut self, condition: Condition) -> bool {
        let Condition { symbol, key } = condition;
        match key {
            key::TYPE => u32::from(self.input.kind) == symbol,
            key::INTERFACE | key::MEMBER | key::PATH => self.place(key) == symbol,
            key::SENDER | key::DESTINATION | key::PATH_NAMESPACE => self.several(key).contains(&symbol),
            _ => {
                let (index, form) = argument_of(key);
                let value = self.tree.symbols.text(symbol);
                meets_argument(value, form, self.argument(index))
            }
        }
    }
}

fn meets_argument(value: &str, form: Form, argument: Argument<'_>) -> bool {
    match (form, argument) {
        (_, Argument::Other) | (Form::Text | Form::Namespace, Argument::Path(_)) => false,
        (Form::Text, Argument::Text(text)) => value == text,
        (Form::Namespace, Argument::Text(text)) => {
            text.strip_prefix(value).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        }
        (Form::Path, Argument::Text(text) | Argument::Path(text)) => {
            value == text
                || (value.ends_with('/') && text.starts_with(value))
                || (text.ends_with('/') && value.starts_with(text))
        }
    }
}

/// The text, and what stands before each separator, or goes up to it with `extra` 1; nothing that is too long for
/// a value.
fn beginnings(text: &str, separator: u8, extra: usize) -> impl Iterator<Item = &str> {
    let whole = (text.len() <= MAX_TEXT).then_some(text);
    let bytes = text.as_bytes().iter().take(MAX_TEXT).enumerate();
    let ends = bytes.filter(move |&(_, &byte)| byte == separator);
    let parts = ends
        .map(move |(at, _)| at + extra)
        .filter(move |&end| end < text.len())
        .filter_map(|end| text.get(..end));
    whole.into_iter().chain(parts)
}
