//! Matching: the rules of everybody, and whose they are.
//!
//! Theory. Rules are filed in a tree (`tree`), in which a message finds those that match (`probe`). Owners are
//! numbers, one for whoever receives. Each has a rank, given when it adds its first rule and kept until `drop_owner`:
//! `receivers` answers in that order. What an owner has of a rule is a holding; the holdings of an owner are a
//! list in the order in which they began.
//!
//! Invariants. 1. `receivers` is exactly the owners of rules that match, each once. 2. A rule that was added n
//! times is gone when it has been removed n times. 3. Without `eavesdrop` a rule matches broadcasts only.
//! 4. Nothing of an owner remains after `drop_owner`.
//!
//! Not here: who may eavesdrop and how many rules one may have.

use super::probe::{MatchInput, Probe};
use super::rule::MatchRule;
use super::slab::{NONE, Slab};
use super::tally::Tally;
use super::tree::{Holders, Tree};
use ahash::RandomState;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Default)]
pub(super) struct Holding {
    pub owner: u64,
    pub rank: u64,
    rule: u32,
    times: u32,
    before: u32,
    after: u32,
}

struct Owner {
    rank: u64,
    first: u32,
    last: u32,
}

/// The rules of everybody.
pub struct MatchIndex {
    pub(super) tree: Tree,
    pub(super) holdings: Slab<Holding>,
    owners: HashMap<u64, Owner, RandomState>,
    n_owning: usize,
    next_rank: u64,
    tally: Arc<Mutex<Tally>>,
}

impl Default for MatchIndex {
    fn default() -> Self {
        MatchIndex::new(Arc::default())
    }
}

impl MatchIndex {
    /// No rules; the tally may count those of another index, too.
    pub fn new(tally: Arc<Mutex<Tally>>) -> MatchIndex {
        MatchIndex {
            tree: Tree::default(),
            holdings: Slab::default(),
            owners: HashMap::default(),
            n_owning: 0,
            next_rank: 0,
            tally,
        }
    }

    /// The number of owners that have a rule.
    pub fn len(&self) -> usize {
        self.n_owning
    }

    /// Whether nobody has a rule.
    pub fn is_empty(&self) -> bool {
        self.n_owning == 0
    }

    /// What counts the rules.
    pub fn tally(&self) -> &Arc<Mutex<Tally>> {
        &self.tally
    }

    /// How many rules the owner has, each as often as it was added.
    pub fn count(&self, owner: u64) -> u64 {
        self.counting().of(owner)
    }

    /// One more instance of the rule for this owner.
    pub fn add(&mut self, owner: u64, rule: &MatchRule) {
        let number = match self.tree.find(rule) {
            Some(number) => number,
            None => self.tree.file(rule),
        };
        let rank = self.rank(owner);
        match self.holding(number, owner) {
            Some(holding) => self.holdings[holding].times += 1,
            None => self.hold(owner, rank, number),
        }
        self.counting().add(owner);
    }

    /// Whether the owner has the rule.
    pub fn has(&self, owner: u64, rule: &MatchRule) -> bool {
        self.held(owner, rule).is_some()
    }

    /// One instance less; false if the owner has none.
    pub fn remove(&mut self, owner: u64, rule: &MatchRule) -> bool {
        let Some(holding) = self.held(owner, rule) else {
            return false;
        };
        if self.holdings[holding].times == 1 {
            self.let_go(holding);
        } else {
            self.holdings[holding].times -= 1;
            self.counting().remove(owner, 1);
        }
        true
    }

    /// All rules of the owner go.
    pub fn drop_owner(&mut self, owner: u64) {
        while let Some(first) = self.owners.get(&owner).map(|owner| owner.first) {
            if first == NONE {
                break;
            }
            self.let_go(first);
        }
        self.owners.remove(&owner);
        let mut tally = self.counting();
        if tally.of(owner) == 0 {
            tally.forget(owner);
        }
    }

    /// Everybody's rules with this unique name as sender or destination go, except those of the spared.
    pub fn forget_name(&mut self, unique: &str, is_spared: impl Fn(u64) -> bool) {
        for rule in self.tree.naming(unique) {
            for holding in self.tree.rules[rule].holders.all() {
                if !is_spared(self.holdings[holding].owner) {
                    self.let_go(holding);
                }
            }
        }
    }

    /// Owners with a rule that matches are appended to `out`, in the order in which they added their first rules.
    pub fn receivers<S: AsRef<str>>(&self, input: &mut MatchInput<'_, S>, out: &mut Vec<u64>) {
        let matching = Probe::new(&self.tree, input).matching();
        if let [rule] = matching[..] {
            match &self.tree.rules[rule].holders {
                Holders::Nobody => {}
                Holders::One(holding) => out.push(self.holdings[*holding].owner),
                Holders::Many(all) => {
                    out.extend(all.values().map(|&holding| self.holdings[holding].owner));
                }
            }
            return;
        }
        let mut found = Vec::new();
        for rule in matching {
            let whose = |&holding: &u32| (self.holdings[holding].rank, self.holdings[holding].owner);
            match &self.tree.rules[rule].holders {
                Holders::Nobody => {}
                Holders::One(holding) => found.push(whose(holding)),
                Holders::Many(all) => found.extend(all.values().map(whose)),
            }
        }
        // the stable sort makes use of the order that each rule's owners have already
        found.sort();
        found.dedup();
        out.extend(found.into_iter().map(|(_, owner)| owner));
    }

    /// The owner's rules and how often each was added, in the order in which they came.
    pub fn rules_of(&self, owner: u64) -> Vec<(MatchRule, u32)> {
        let mut found = Vec::new();
        let mut at = self.owners.get(&owner).map_or(NONE, |owner| owner.first);
        while at != NONE {
            let holding = &self.holdings[at];
            found.push((self.tree.value(holding.rule), holding.times));
            at = holding.after;
        }
        found
    }

    fn counting(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- owners and what they have ---------------------------------------------------------------

    fn rank(&mut self, owner: u64) -> u64 {
        let known = self.owners.entry(owner).or_insert_with(|| {
            self.next_rank += 1;
            Owner { rank: self.next_rank, first: NONE, last: NONE }
        });
        known.rank
    }

    fn held(&self, owner: u64, rule: &MatchRule) -> Option<u32> {
        self.tree.find(rule).and_then(|number| self.holding(number, owner))
    }

    fn holding(&self, rule: u32, owner: u64) -> Option<u32> {
        let found = match &self.tree.rules[rule].holders {
            Holders::Nobody => None,
            Holders::One(holding) => Some(*holding),
            Holders::Many(all) => all.get(&self.owners.get(&owner)?.rank).copied(),
        };
        found.filter(|&holding| self.holdings[holding].owner == owner)
    }

    fn hold(&mut self, owner: u64, rank: u64, rule: u32) {
        let Some(known) = self.owners.get_mut(&owner) else {
            return;
        };
        let number =
            self.holdings.insert(Holding { owner, rank, rule, times: 1, before: known.last, after: NONE });
        if known.last == NONE {
            known.first = number;
            self.n_owning += 1;
        } else {
            self.holdings[known.last].after = number;
        }
        known.last = number;
        let holders = &mut self.tree.rules[rule].holders;
        match holders {
            Holders::Nobody => *holders = Holders::One(number),
            Holders::One(other) => {
                let other = *other;
                let both = [(self.holdings[other].rank, other), (rank, number)];
                *holders = Holders::Many(Box::new(BTreeMap::from(both)));
            }
            Holders::Many(all) => {
                all.insert(rank, number);
            }
        }
    }

    fn let_go(&mut self, number: u32) {
        let gone = self.holdings.remove(number);
        if let Some(owner) = self.owners.get_mut(&gone.owner) {
            match gone.before {
                NONE => owner.first = gone.after,
                before => self.holdings[before].after = gone.after,
            }
            match gone.after {
                NONE => owner.last = gone.before,
                after => self.holdings[after].before = gone.before,
            }
            if owner.first == NONE {
                self.n_owning -= 1;
            }
        }
        self.counting().remove(gone.owner, u64::from(gone.times));
        let holders = &mut self.tree.rules[gone.rule].holders;
        match holders {
            Holders::Many(all) => {
                all.remove(&gone.rank);
                if let (1, Some((_, &last))) = (all.len(), all.first_key_value()) {
                    *holders = Holders::One(last);
                }
            }
            _ => {
                *holders = Holders::Nobody;
                self.tree.unfile(gone.rule);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{MatchIndex, MatchRule};

    #[test]
    fn when_the_last_rule_has_gone_nothing_is_left() {
        let texts = [
            "",
            "type='signal'",
            "type='signal',member='M'",
            "member='M',arg0='x'",
            "member='M',arg0='y'",
            "member='M',arg0='y',arg1='z'",
            "sender=':1.1',arg0path='/a/'",
            "sender=':1.1',arg0path='/a/b'",
            "eavesdrop='true',destination=':1.1'",
            "sender=':1.1',arg0path='/a/b',arg1='x'",
        ];
        for ends in 0..4 {
            let mut index = MatchIndex::default();
            let rules = texts.iter().flat_map(|text| MatchRule::parse(text));
            let rules: Vec<_> = rules.collect();
            for owner in 1..4 {
                rules.iter().for_each(|rule| index.add(owner, rule));
            }
            for owner in 1..4 {
                match ends {
                    0 => index.drop_owner(owner),
                    1 => rules.iter().for_each(|rule| assert!(index.remove(owner, rule))),
                    2 => rules.iter().rev().for_each(|rule| assert!(index.remove(owner, rule))),
                    _ => {
                        index.forget_name(":1.1", |_| false);
                        index.drop_owner(owner);
                    }
                }
            }
            assert!(index.is_empty() && index.tree.is_clear(), "{ends}");
        }
    }
}
