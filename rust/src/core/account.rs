//! Who uses how much of what, and who may use more.
//!
//! Theory. The twin of `bus1/core/account.py`, where the inequality is argued. A flow is found by its sending
//! peer, a share by the uid, at each charge and each settling; there are few of both. Most accounts use handles
//! alone, most of the time; what else is used is counted in *dues*, which are lent for as long as something is.
//! What is allowed is the same for many, and shared.
//!
//! Invariants. 1. Shares and flows without a message do not exist. 2. Use and shares never go below zero: who
//! gives back twice breaks Core. 3. A refused charge changes nothing.
//!
//! Not here: all users (`ledger`), which command charges what when.

use std::sync::Arc;

use smallvec::SmallVec;

use super::api::{Counts, Limits, Usage};
use super::error::{Error, Kind, Result};
use super::flows::{Flow, Flows};
use super::sequencer::Sequencer;
use super::table::Key;

pub const SLICES: usize = 0;
pub const HANDLES: usize = 1;
pub const BYTES: usize = 2;
pub const FDS: usize = 3;
pub const RESOURCES: [&str; 4] = ["slices", "handles", "bytes", "fds"];
/// The sender of a seed's flow: no peer has this number.
pub const SEED_SENDER: u64 = 0;

/// What one sending user has in flight somewhere.
#[derive(Clone, Copy)]
pub struct Share {
    pub uid: i64,
    pub counts: Counts,
}

type Shares = SmallVec<[Share; 1]>;

fn add(totals: &mut [u64; 3], amounts: [u64; 3]) {
    for (total, amount) in totals.iter_mut().zip(amounts) {
        *total += amount;
    }
}

fn share_of(shares: &[Share], uid: i64) -> Counts {
    shares.iter().find(|share| share.uid == uid).map_or([0; 4], |share| share.counts)
}

fn book_share(shares: &mut Shares, uid: i64, charge: &Counts) {
    if let Some(share) = shares.iter_mut().find(|share| share.uid == uid) {
        for (count, amount) in share.counts.iter_mut().zip(charge) {
            *count += amount;
        }
    } else {
        shares.push(Share { uid, counts: *charge });
    }
}

/// False if that was not booked.
fn settle_share(shares: &mut Shares, uid: i64, charge: &Counts) -> bool {
    let Some(at) = shares.iter().position(|share| share.uid == uid) else {
        return false;
    };
    let counts = &mut shares[at].counts;
    let mut is_sound = true;
    for (count, amount) in counts.iter_mut().zip(charge) {
        is_sound &= *count >= *amount;
        *count = count.saturating_sub(*amount);
    }
    if counts[SLICES] == 0 {
        shares.remove(at);
    }
    is_sound
}

/// One uid: its maxima, its use, and the shares of other users in it.
pub struct User {
    pub uid: i64,
    pub limits: Counts,
    pub used: Counts,
    pub shares: Shares,
    pub accounts: u64,
    /// Users are listed as they came.
    pub order: u64,
    // they move in and out as they are
    #[allow(clippy::vec_box)]
    stock: Vec<Box<Dues>>,
}

impl User {
    /// One without accounts.
    pub fn new(uid: i64, limits: Limits, order: u64) -> Self {
        let (used, shares, stock) = ([0; 4], Shares::new(), Vec::new());
        User { uid, limits: limits.0, used, shares, accounts: 0, order, stock }
    }
}

/// So many dues are kept for whoever of a user's needs some.
const STOCK: usize = 64;

/// One peer's maxima.
#[derive(Clone, PartialEq, Eq)]
pub struct Terms {
    pub limits: Counts,
    /// Bytes that are charged with every message beyond its slice.
    pub overhead: u64,
}

/// What is used while more than handles is.
#[derive(Default)]
pub struct Dues {
    used: Counts,
    pub shares: Shares,
    pub flows: Flows,
    undelivered: [u64; 3],
}

/// One peer's maxima and use.
pub struct Account {
    /// Its key in the ledger.
    pub user: Key,
    pub terms: Arc<Terms>,
    /// What it uses, if that is all.
    handles: u64,
    pub dues: Option<Box<Dues>>,
}

impl Dues {
    /// All that is used is handles.
    fn are_paid(&self) -> bool {
        let [slices, _, bytes, fds] = self.used;
        (slices, bytes, fds) == (0, 0, 0) && self.flows.is_empty() && self.shares.is_empty()
    }
}

/// What one undelivered message costs its receiver; given back exactly once.
#[derive(Clone, Copy)]
pub struct Charge {
    pub sender: u64,
    pub size: u64,
    pub handles: u32,
    pub fds: u32,
}

impl Charge {
    fn counts(&self) -> Counts {
        [1, u64::from(self.handles), self.size, u64::from(self.fds)]
    }
}

impl Account {
    /// One of a user, on these terms.
    pub fn new(user: Key, terms: Arc<Terms>) -> Self {
        Account { user, terms, handles: 0, dues: None }
    }

    /// What `sender` has undelivered here.
    pub fn queued(&self, sender: u64) -> Usage {
        let flow = self.dues.as_ref().and_then(|dues| dues.flows.get(sender));
        flow.map_or(Usage::default(), |flow| usage(flow.undelivered))
    }

    /// What is used.
    pub fn used(&self) -> Counts {
        self.dues.as_ref().map_or([0, self.handles, 0, 0], |dues| dues.used)
    }

    fn used_of(&self, resource: usize) -> u64 {
        match &self.dues {
            Some(dues) => dues.used[resource],
            None if resource == HANDLES => self.handles,
            None => 0,
        }
    }

    fn count(&mut self, resource: usize) -> Option<&mut u64> {
        match &mut self.dues {
            Some(dues) => dues.used.get_mut(resource),
            None => Some(&mut self.handles).filter(|_| resource == HANDLES),
        }
    }

    /// How much more of a resource surely fits, whoever else of this user's peers gets how much of it from `uid`.
    ///
    /// If `n` more are anywhere in the user's, `share`, `here` and what is used grow by `n` at most, and so the inequality of
    /// `exceeds_peer_quota` holds for `amount` more if it does with four times `n + amount`.
    pub fn room(&self, user: &User, uid: i64, resource: usize) -> u64 {
        let left = user.limits[resource].saturating_sub(user.used[resource]);
        let share = share_of(&user.shares, uid)[resource];
        let here = self.dues.as_ref().map_or(0, |dues| share_of(&dues.shares, uid)[resource]);
        let quarter = left.saturating_sub(share).saturating_sub(here.saturating_mul(2)) / 4;
        self.terms.limits[resource].saturating_sub(self.used_of(resource)).min(quarter)
    }

    /// What everybody has undelivered here, the seed apart.
    pub fn waiting(&self) -> Usage {
        let Some(dues) = &self.dues else { return Usage::default() };
        let mut all = dues.undelivered;
        if let Some(seed) = dues.flows.get(SEED_SENDER) {
            for (count, amount) in all.iter_mut().zip(seed.undelivered) {
                *count -= amount;
            }
        }
        usage(all)
    }
}

fn usage([bytes, messages, fds]: [u64; 3]) -> Usage {
    Usage { bytes, messages, fds }
}

/// An account with its user: what may be charged.
pub struct Purse<'a> {
    pub account: &'a mut Account,
    pub user: &'a mut User,
}

impl Purse<'_> {
    /// Charge `amount` outside any share; QuotaExceeded beyond a maximum.
    pub fn take(&mut self, resource: usize, amount: u64) -> Result<()> {
        if amount == 0 {
            return Ok(());
        }
        let name = RESOURCES[resource];
        let (used, limit) = (self.account.used_of(resource), self.account.terms.limits[resource]);
        if used.saturating_add(amount) > limit {
            return Err(Error::new(
                Kind::QuotaExceeded,
                format!("{name} of the peer: {used} used, {amount} wanted, {limit} allowed"),
            ));
        }
        let used = self.user.used[resource];
        if used.saturating_add(amount) > self.user.limits[resource] {
            return Err(Error::new(
                Kind::QuotaExceeded,
                format!("{name} of uid {}: {used} used", self.user.uid),
            ));
        }
        if self.account.dues.is_none() && resource != HANDLES {
            self.open_dues();
        }
        if let Some(count) = self.account.count(resource) {
            *count += amount;
        }
        self.user.used[resource] += amount;
        Ok(())
    }

    /// More than handles is going to be used.
    fn open_dues(&mut self) -> &mut Dues {
        let Account { dues, handles, .. } = &mut *self.account;
        dues.get_or_insert_with(|| {
            let mut dues = self.user.stock.pop().unwrap_or_default();
            dues.used[HANDLES] = *handles;
            dues
        })
    }

    /// Only handles are used, perhaps.
    fn close_dues(&mut self) {
        if let Some(mut dues) = self.account.dues.take_if(|dues| dues.are_paid()) {
            self.account.handles = std::mem::take(&mut dues.used[HANDLES]);
            if self.user.stock.len() < STOCK {
                self.user.stock.push(dues);
            }
        }
    }

    /// Give `amount` back.
    pub fn give(&mut self, resource: usize, amount: u64, sequencer: &mut Sequencer) {
        let mut is_sound = true;
        for used in [self.account.count(resource), self.user.used.get_mut(resource)] {
            is_sound &= used.as_ref().map_or(amount == 0, |used| **used >= amount);
            if let Some(used) = used {
                *used = used.saturating_sub(amount);
            }
        }
        if !is_sound {
            sequencer.fail(format!("{} given back twice", RESOURCES[resource]));
        }
        if resource == BYTES {
            // which is what is given back last
            self.close_dues();
        }
    }

    /// Charge a message of peer `sender`, user `uid`; QuotaExceeded names what is exceeded.
    pub fn charge(&mut self, sender: u64, uid: i64, handles: usize, size: u64, fds: usize) -> Result<Charge> {
        let charge = Charge {
            sender,
            size: size.saturating_add(self.account.terms.overhead),
            handles: handles as u32,
            fds: fds as u32,
        };
        let counts = charge.counts();
        let user_share = share_of(&self.user.shares, uid);
        let peer_share = self.account.dues.as_ref().map_or([0; 4], |dues| share_of(&dues.shares, uid));
        for resource in [SLICES, HANDLES, BYTES, FDS] {
            if counts[resource] != 0 {
                self.admit(resource, counts[resource], uid, user_share[resource], peer_share[resource])?;
            }
        }
        book_share(&mut self.user.shares, uid, &counts);
        for (used, amount) in self.user.used.iter_mut().zip(counts) {
            *used += amount;
        }
        let dues = self.open_dues();
        book_share(&mut dues.shares, uid, &counts);
        for (used, amount) in dues.used.iter_mut().zip(counts) {
            *used += amount;
        }
        let amounts = [charge.size, 1, counts[FDS]];
        match dues.flows.get_mut(sender) {
            Some(flow) => add(&mut flow.undelivered, amounts),
            None => {
                let undelivered = amounts;
                dues.flows.insert(sender, Flow { uid, undelivered });
            }
        }
        add(&mut dues.undelivered, amounts);
        Ok(charge)
    }

    fn admit(&self, resource: usize, amount: u64, uid: i64, share: u64, here: u64) -> Result<()> {
        if self.account.used_of(resource).saturating_add(amount) > self.account.terms.limits[resource] {
            return Err(Error::new(
                Kind::QuotaExceeded,
                format!("{} of the receiving peer: {amount} more", RESOURCES[resource]),
            ));
        }
        let left = i128::from(self.user.limits[resource]) - i128::from(self.user.used[resource]);
        if !exceeds_peer_quota(left, share, here, amount) {
            return Ok(());
        }
        let which = if exceeds_user_quota(left, share, amount) { "user" } else { "peer" };
        Err(Error::new(
            Kind::QuotaExceeded,
            format!(
                "{}, {which} quota: uid {uid} has {share} of uid {}'s, {left} are left, {amount} wanted",
                RESOURCES[resource], self.user.uid
            ),
        ))
    }

    /// The message has left the queue: `kept` handles stay, and the slice with its bytes.
    pub fn settle(&mut self, charge: &Charge, kept: usize, sequencer: &mut Sequencer) {
        let counts = charge.counts();
        let dues = self.account.dues.as_deref_mut();
        let found = dues.and_then(|Dues { shares, flows, undelivered, .. }| {
            Some((shares, flows.get_mut(charge.sender)?, undelivered))
        });
        let Some((shares, flow, undelivered)) = found else {
            sequencer.fail("a charge was given back twice");
            return;
        };
        let uid = flow.uid;
        for totals in [&mut flow.undelivered, undelivered] {
            totals[0] = totals[0].saturating_sub(charge.size);
            totals[1] = totals[1].saturating_sub(1);
            totals[2] = totals[2].saturating_sub(counts[FDS]);
        }
        let is_over = flow.undelivered[1] == 0;
        let is_sound = settle_share(shares, uid, &counts);
        if let Some(dues) = self.account.dues.as_mut().filter(|_| is_over) {
            dues.flows.remove(charge.sender);
        }
        if !(settle_share(&mut self.user.shares, uid, &counts) && is_sound) {
            sequencer.fail("a charge was given back twice");
        }
        let gone = u64::from(charge.handles).saturating_sub(kept as u64);
        if gone != 0 {
            self.give(HANDLES, gone, sequencer);
        }
        if charge.fds != 0 {
            self.give(FDS, counts[FDS], sequencer);
        }
    }

    /// The message never was: give everything back, the slice's part too.
    pub fn cancel(&mut self, charge: &Charge, sequencer: &mut Sequencer) {
        self.settle(charge, 0, sequencer);
        self.give(SLICES, 1, sequencer);
        self.give(BYTES, charge.size, sequencer);
    }
}

/// the sending user would pass half of what no other user consumes of the receiving user.
pub fn exceeds_user_quota(left: i128, share: u64, amount: u64) -> bool {
    i128::from(share) + 2 * i128::from(amount) > left
}

/// the same for the receiving peer; `here` is the part of `share` that lies at this peer.
pub fn exceeds_peer_quota(left: i128, share: u64, here: u64, amount: u64) -> bool {
    i128::from(share) + 2 * i128::from(here) + 4 * i128::from(amount) > left
}
