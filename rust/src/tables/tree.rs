//! Tree: where rules are filed, by what they ask for.
//!
//! Theory. A rule is the list of its conditions in a fixed order (type, interface, member, path, sender,
//! destination, path_namespace, arguments), and so a way down a tree: a node has a branch for each key, in it an
//! edge for each value. The edges of all nodes lie in one hash table. Where only one rule goes on, the edge leads
//! to the rule itself, whose other conditions are compared one by one: a rule that nobody else has costs one edge,
//! and most rules have few texts of their own. There are two trees, for rules with `eavesdrop` and without.
//!
//! Invariants. 1. A node but a root has a rule or a branch. 2. A rule is filed once. 3. A symbol is used once for
//! each condition that has it.
//!
//! Not here: which values a message meets (`probe`), who has a rule (`matching`).

use super::rule::{ArgumentMatch, Form, MatchRule};
use super::slab::{NONE, Slab};
use super::symbols::Symbols;
use ahash::RandomState;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{Hash, Hasher};

/// What a condition looks at; in this order along every way.
pub(super) mod key {
    pub const TYPE: u8 = 0;
    pub const INTERFACE: u8 = 1;
    pub const MEMBER: u8 = 2;
    pub const PATH: u8 = 3;
    pub const SENDER: u8 = 4;
    pub const DESTINATION: u8 = 5;
    pub const PATH_NAMESPACE: u8 = 6;
    /// Three for each argument: text, path, namespace.
    pub const ARGUMENTS: u8 = 7;
}

/// A key with the number of its value: a symbol, or the type itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    pub symbol: u32,
    pub key: u8,
}

/// One branch's value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Edge {
    pub node: u32,
    pub symbol: u32,
    pub key: u8,
}

impl Hash for Edge {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(u64::from(self.node) << 32 | u64::from(self.symbol));
        state.write_u8(self.key);
    }
}

/// Where an edge leads: to a node, or, with this bit, to a rule.
pub(super) const RULE: u32 = 1 << 31;
/// The root of the rules without `eavesdrop`.
pub(super) const PLAIN: u32 = 0;
/// The root of those with it.
pub(super) const EAVESDROPPING: u32 = 1;

#[derive(Default)]
pub(super) struct Node {
    /// The rule that ends here, or `NONE`.
    pub rule: u32,
    /// The keys that have edges, in ascending order, and how many.
    pub branches: Vec<(u8, u32)>,
}

/// Who has a rule: holdings. Most rules have one, so the map is in a box.
#[derive(Default)]
#[allow(clippy::box_collection)]
pub(super) enum Holders {
    #[default]
    Nobody,
    One(u32),
    /// By rank.
    Many(Box<BTreeMap<u64, u32>>),
}

#[derive(Default)]
pub(super) struct Rule {
    pub conditions: Box<[Condition]>,
    pub holders: Holders,
    eavesdrop: bool,
}

impl Holders {
    /// Every holding, by rank.
    pub fn all(&self) -> Vec<u32> {
        match self {
            Holders::Nobody => Vec::new(),
            Holders::One(holding) => vec![*holding],
            Holders::Many(all) => all.values().copied().collect(),
        }
    }
}

/// All rules.
pub(super) struct Tree {
    pub symbols: Symbols,
    pub nodes: Slab<Node>,
    pub edges: HashMap<Edge, u32, RandomState>,
    /// The values of argument path branches, sorted.
    pub sorted: HashMap<(u32, u8), BTreeSet<Box<str>>, RandomState>,
    pub rules: Slab<Rule>,
    /// (symbol of a unique name, rule that names it).
    naming: BTreeSet<(u32, u32)>,
}

impl Default for Tree {
    fn default() -> Self {
        let mut nodes = Slab::default();
        for _ in [PLAIN, EAVESDROPPING] {
            nodes.insert(Node::new());
        }
        Tree {
            symbols: Symbols::default(),
            nodes,
            edges: HashMap::default(),
            sorted: HashMap::default(),
            rules: Slab::default(),
            naming: BTreeSet::new(),
        }
    }
}

impl Tree {
    /// The rules that name this unique name.
    pub fn naming(&self, unique: &str) -> Vec<u32> {
        let Some(symbol) = self.symbols.find(unique) else {
            return Vec::new();
        };
        let naming = self.naming.range((symbol, 0)..=(symbol, NONE));
        naming.map(|(_, rule)| *rule).collect()
    }

    /// The number of a rule that is filed.
    pub fn find(&self, rule: &MatchRule) -> Option<u32> {
        let mut conditions = Vec::with_capacity(8);
        for (key, value) in asked(rule) {
            let symbol = match value {
                Value::Number(number) => number,
                Value::Text(text) => self.symbols.find(text)?,
            };
            conditions.push(Condition { symbol, key });
        }
        let mut node = root(rule.eavesdrop);
        for condition in &conditions {
            let target = *self.edges.get(&condition.at(node))?;
            if target & RULE != 0 {
                let number = target & !RULE;
                return (*self.rules[number].conditions == *conditions).then_some(number);
            }
            node = target;
        }
        Some(self.nodes[node].rule).filter(|&number| number != NONE)
    }

    /// Files a rule that is not there yet; its number.
    pub fn file(&mut self, rule: &MatchRule) -> u32 {
        let mut conditions = Vec::with_capacity(8);
        for (key, value) in asked(rule) {
            let symbol = match value {
                Value::Number(number) => number,
                Value::Text(text) => self.symbols.take(text),
            };
            conditions.push(Condition { symbol, key });
        }
        let number = self.rules.insert(Rule {
            conditions: conditions.clone().into(),
            holders: Holders::Nobody,
            eavesdrop: rule.eavesdrop,
        });
        for symbol in self.unique_names(number) {
            self.naming.insert((symbol, number));
        }
        let mut node = root(rule.eavesdrop);
        for (i, &condition) in conditions.iter().enumerate() {
            match self.edges.get(&condition.at(node)).copied() {
                None => {
                    self.join(node, condition, number | RULE);
                    return number;
                }
                Some(target) if target & RULE != 0 => {
                    let inner = self.nodes.insert(Node::new());
                    self.edges.insert(condition.at(node), inner);
                    self.push_down(target & !RULE, inner, i + 1);
                    node = inner;
                }
                Some(target) => node = target,
            }
        }
        self.nodes[node].rule = number;
        number
    }

    /// A rule that an edge led to goes below a new node, from its i-th condition on.
    fn push_down(&mut self, number: u32, node: u32, i: usize) {
        match self.rules[number].conditions.get(i).copied() {
            Some(condition) => self.join(node, condition, number | RULE),
            None => self.nodes[node].rule = number,
        }
    }

    /// Nobody has the rule any more.
    pub fn unfile(&mut self, number: u32) {
        for symbol in self.unique_names(number) {
            self.naming.remove(&(symbol, number));
        }
        let rule = self.rules.remove(number);
        let mut way = Vec::with_capacity(8);
        let mut node = root(rule.eavesdrop);
        let mut is_inside = true;
        for &condition in &rule.conditions {
            way.push((node, condition));
            match self.edges.get(&condition.at(node)) {
                Some(target) if target & RULE == 0 => node = *target,
                _ => {
                    is_inside = false;
                    break;
                }
            }
        }
        if is_inside {
            self.nodes[node].rule = NONE;
        } else if let Some((node, condition)) = way.pop() {
            self.cut(node, condition);
        }
        while let Some((above, condition)) = way.pop() {
            let Some(&node) = self.edges.get(&condition.at(above)) else {
                break;
            };
            let here = &self.nodes[node];
            match (here.branches.is_empty(), here.rule) {
                (true, NONE) => self.cut(above, condition),
                (true, only) => {
                    self.edges.insert(condition.at(above), only | RULE);
                }
                (false, _) => break,
            }
            self.nodes.remove(node);
        }
        for condition in &rule.conditions {
            if condition.key != key::TYPE {
                self.symbols.release(condition.symbol);
            }
        }
    }

    /// Nothing is left of any rule.
    #[cfg(test)]
    pub fn is_clear(&self) -> bool {
        let roots = [&self.nodes[PLAIN], &self.nodes[EAVESDROPPING]];
        let is_empty = |node: &&Node| node.rule == NONE && node.branches.is_empty();
        roots.iter().all(is_empty)
            && (self.nodes.len(), self.rules.len(), self.symbols.len()) == (2, 0, 0)
            && self.edges.is_empty()
            && self.sorted.is_empty()
            && self.naming.is_empty()
    }

    fn join(&mut self, node: u32, condition: Condition, target: u32) {
        self.edges.insert(condition.at(node), target);
        if is_argument_path(condition.key) {
            let text = self.symbols.text(condition.symbol);
            let sorted = self.sorted.entry((node, condition.key)).or_default();
            sorted.insert(text.into());
        }
        let branches = &mut self.nodes[node].branches;
        match branches.binary_search_by_key(&condition.key, |branch| branch.0) {
            Ok(at) => branches[at].1 += 1,
            Err(at) => {
                branches.reserve_exact(1);
                branches.insert(at, (condition.key, 1));
            }
        }
    }

    fn cut(&mut self, node: u32, condition: Condition) {
        self.edges.remove(&condition.at(node));
        if self.edges.is_empty() {
            self.edges = HashMap::default();
        }
        if is_argument_path(condition.key) {
            let text = self.symbols.text(condition.symbol);
            if let Some(sorted) = self.sorted.get_mut(&(node, condition.key)) {
                sorted.remove(text);
                if sorted.is_empty() {
                    self.sorted.remove(&(node, condition.key));
                }
            }
        }
        let branches = &mut self.nodes[node].branches;
        if let Ok(at) = branches.binary_search_by_key(&condition.key, |branch| branch.0) {
            branches[at].1 -= 1;
            if branches[at].1 == 0 {
                branches.remove(at);
            }
        }
    }

    fn unique_names(&self, rule: u32) -> Vec<u32> {
        let conditions = self.rules[rule].conditions.iter();
        conditions
            .filter(|condition| matches!(condition.key, key::SENDER | key::DESTINATION))
            .map(|condition| condition.symbol)
            .filter(|&symbol| self.symbols.text(symbol).starts_with(':'))
            .collect()
    }

    /// The rule as a value.
    pub fn value(&self, number: u32) -> MatchRule {
        let filed = &self.rules[number];
        let mut rule = MatchRule { eavesdrop: filed.eavesdrop, ..MatchRule::default() };
        for condition in &filed.conditions {
            if condition.key == key::TYPE {
                rule.kind = condition.symbol as u8;
                continue;
            }
            let text = self.symbols.text(condition.symbol).to_owned();
            match condition.key {
                key::INTERFACE => rule.interface = Some(text),
                key::MEMBER => rule.member = Some(text),
                key::PATH => rule.path = Some(text),
                key::SENDER => rule.sender = Some(text),
                key::DESTINATION => rule.destination = Some(text),
                key::PATH_NAMESPACE => rule.path_namespace = Some(text),
                argument => {
                    let (index, form) = argument_of(argument);
                    rule.arguments.push(ArgumentMatch { index, form, value: text });
                }
            }
        }
        rule
    }
}

impl Condition {
    fn at(self, node: u32) -> Edge {
        Edge { node, symbol: self.symbol, key: self.key }
    }
}

impl Node {
    fn new() -> Node {
        Node { rule: NONE, branches: Vec::new() }
    }
}

/// The key of an argument's condition.
fn argument_key(index: u8, form: Form) -> u8 {
    let form = match form {
        Form::Text => 0,
        Form::Path => 1,
        Form::Namespace => 2,
    };
    key::ARGUMENTS + 3 * (index % 64) + form
}

/// The argument that a key is about.
pub(super) fn argument_of(key: u8) -> (u8, Form) {
    let number = key.saturating_sub(key::ARGUMENTS);
    let form = [Form::Text, Form::Path, Form::Namespace][usize::from(number % 3)];
    (number / 3, form)
}

fn is_argument_path(key: u8) -> bool {
    key >= key::ARGUMENTS && argument_of(key).1 == Form::Path
}

fn root(eavesdrop: bool) -> u32 {
    if eavesdrop { EAVESDROPPING } else { PLAIN }
}

enum Value<'r> {
    Number(u32),
    Text(&'r str),
}

/// What the rule asks for, in the order of the keys.
fn asked(rule: &MatchRule) -> impl Iterator<Item = (u8, Value<'_>)> {
    let kind = (rule.kind != 0).then(|| (key::TYPE, Value::Number(u32::from(rule.kind))));
    let texts = [
        (key::INTERFACE, &rule.interface),
        (key::MEMBER, &rule.member),
        (key::PATH, &rule.path),
        (key::SENDER, &rule.sender),
        (key::DESTINATION, &rule.destination),
        (key::PATH_NAMESPACE, &rule.path_namespace),
    ];
    let texts =
        texts.into_iter().filter_map(|(key, text)| text.as_deref().map(|text| (key, Value::Text(text))));
    let arguments = rule.arguments.iter().map(|argument| {
        let key = argument_key(argument.index, argument.form);
        (key, Value::Text(argument.value.as_str()))
    });
    kind.into_iter().chain(texts).chain(arguments)
}
