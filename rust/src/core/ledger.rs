//! All users of a bus, and their accounts' opening and closing.
//!
//! Theory. The twin of `Ledger` in `bus1/core/account.py`. A user is there while it has an account; what is allowed to it
//! may be said before.
//!
//! Invariants. 1. An account is closed with zero use, and so is a user.
//!
//! Not here: charges (`account`).

use std::collections::HashMap;
use std::sync::Arc;

use super::account::{Account, Terms, User};
use super::api::{Limits, UserUsage};
use super::sequencer::Sequencer;
use super::table::{Key, Table};

/// All users of a bus.
pub struct Ledger {
    pub defaults: Limits,
    /// In the order in which they were first set.
    pub configured: Vec<(i64, Limits)>,
    pub users: Table<User>,
    by_uid: HashMap<i64, Key, ahash::RandomState>,
    /// Terms that an account was opened with last: most have the same.
    usual: Option<Arc<Terms>>,
}

impl Ledger {
    /// Nobody yet.
    pub fn new(defaults: Limits) -> Self {
        Ledger {
            defaults,
            configured: Vec::new(),
            users: Table::default(),
            by_uid: HashMap::default(),
            usual: None,
        }
    }

    /// An account for a new peer of `uid`; its maxima default to the user's (P-22, Q-3).
    pub fn open(&mut self, uid: i64, limits: Option<Limits>, overhead: u64, order: u64) -> Account {
        let user = match self.by_uid.get(&uid) {
            Some(key) => *key,
            None => {
                let configured = self.configured.iter().find(|(known, _)| *known == uid);
                let limits = configured.map_or(self.defaults, |(_, limits)| *limits);
                let key = self.users.insert(User::new(uid, limits, order));
                self.by_uid.insert(uid, key);
                key
            }
        };
        self.users[user].accounts += 1;
        let limits = limits.map_or(self.users[user].limits, |limits| limits.0);
        Account::new(user, self.shared(Terms { limits, overhead }))
    }

    /// One for all that are alike.
    fn shared(&mut self, terms: Terms) -> Arc<Terms> {
        if let Some(usual) = self.usual.as_ref().filter(|usual| ***usual == terms) {
            return Arc::clone(usual);
        }
        let terms = Arc::new(terms);
        self.usual = Some(Arc::clone(&terms));
        terms
    }

    /// The peer is gone, and with the last one its user.
    pub fn close(&mut self, account: &Account, sequencer: &mut Sequencer) {
        let user = &mut self.users[account.user];
        if account.used() != [0; 4] || account.dues.is_some() {
            sequencer.fail(format!("an account of uid {} was closed in use: {:?}", user.uid, account.used()));
        }
        user.accounts -= 1;
        if user.accounts == 0 {
            if user.used != [0; 4] || !user.shares.is_empty() {
                sequencer.fail(format!("uid {} left in use: {:?}", user.uid, user.used));
            }
            self.by_uid.remove(&user.uid);
            self.users.remove(account.user);
        }
    }

    /// Replace the maxima of `uid`, now and whenever it comes back.
    pub fn configure(&mut self, uid: i64, limits: Limits) {
        match self.configured.iter_mut().find(|(known, _)| *known == uid) {
            Some(entry) => entry.1 = limits,
            None => self.configured.push((uid, limits)),
        }
        if let Some(key) = self.by_uid.get(&uid) {
            self.users[*key].limits = limits.0;
        }
    }

    /// Everybody who has peers, as they came.
    pub fn in_order(&self) -> Vec<&User> {
        let mut users: Vec<&User> = self.users.values().collect();
        users.sort_by_key(|user| user.order);
        users
    }

    /// What every user has and uses.
    pub fn usage(&self) -> Vec<(i64, UserUsage)> {
        let of = |user: &User| UserUsage {
            used: user.used,
            limits: user.limits,
            shares: user.shares.iter().map(|share| (share.uid, share.counts)).collect(),
        };
        self.in_order().iter().map(|user| (user.uid, of(user))).collect()
    }
}
