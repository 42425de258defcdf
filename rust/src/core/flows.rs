//! What each sending peer has undelivered at one receiving account.
//!
//! Theory. Most accounts have no flow, or one, and most of them come and go with a single message: a few lie in a
//! list; many, in a table.
//!
//! Invariants. 1. A flow without a message does not exist.
//!
//! Not here: shares (`account`).

use smallvec::SmallVec;

use super::hashing::CountedMap;

/// More of them go into a table.
const FEW: usize = 16;

/// What one sending peer has undelivered: bytes, messages, descriptors.
pub struct Flow {
    pub uid: i64,
    pub undelivered: [u64; 3],
}

/// The flows of one account, by sending peer.
#[derive(Default)]
pub struct Flows {
    few: SmallVec<[(u64, Flow); 1]>,
    many: Option<Box<CountedMap<Flow>>>,
}

impl Flows {
    /// The flow of a sender.
    pub fn get(&self, sender: u64) -> Option<&Flow> {
        match &self.many {
            Some(many) => many.get(&sender),
            None => self.few.iter().find(|entry| entry.0 == sender).map(|entry| &entry.1),
        }
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, sender: u64) -> Option<&mut Flow> {
        match &mut self.many {
            Some(many) => many.get_mut(&sender),
            None => self.few.iter_mut().find(|entry| entry.0 == sender).map(|entry| &mut entry.1),
        }
    }

    /// A flow that was not there.
    pub fn insert(&mut self, sender: u64, flow: Flow) {
        if let Some(many) = &mut self.many {
            many.insert(sender, flow);
        } else if self.few.len() < FEW {
            self.few.push((sender, flow));
        } else {
            let all = std::mem::take(&mut self.few).into_iter().chain([(sender, flow)]);
            self.many = Some(Box::new(all.collect()));
        }
    }

    /// The last message of a flow is delivered.
    pub fn remove(&mut self, sender: u64) {
        if let Some(many) = &mut self.many {
            many.remove(&sender);
            if many.is_empty() {
                self.many = None;
            }
        } else if let Some(at) = self.few.iter().position(|entry| entry.0 == sender) {
            self.few.swap_remove(at);
        }
    }

    /// Nothing is undelivered.
    pub fn is_empty(&self) -> bool {
        self.few.is_empty() && self.many.is_none()
    }

    /// All of them, by sender.
    pub fn sorted(&self) -> Vec<(u64, &Flow)> {
        let few = self.few.iter().map(|entry| (entry.0, &entry.1));
        let many = self.many.iter().flat_map(|many| many.iter());
        let mut all: Vec<_> = few.chain(many.map(|(sender, flow)| (*sender, flow))).collect();
        all.sort_unstable_by_key(|entry| entry.0);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_and_many_are_found_alike() {
        let mut flows = Flows::default();
        for sender in 1..40 {
            let undelivered = [sender, 1, 0];
            flows.insert(sender, Flow { uid: 7, undelivered });
            assert!(
                (1..=sender)
                    .all(|known| { flows.get(known).is_some_and(|flow| flow.undelivered[0] == known) })
            );
        }
        assert!(flows.sorted().iter().map(|entry| entry.0).eq(1..40));
        for sender in 1..40 {
            assert!(flows.get_mut(sender).is_some());
            flows.remove(sender);
            assert!(flows.get(sender).is_none() && flows.is_empty() == (sender == 39));
        }
    }
}
