//! Symbols: texts of rules, each kept once and known by a number.
//!
//! Theory. Rules share most of their texts (interfaces, members), and a message is compared by numbers once its
//! own texts have been looked up. A text that is no symbol is in no rule.
//!
//! Invariants. 1. A text is there as long as somebody uses it.
//!
//! Not here: what a text stands for.

use super::slab::Slab;
use ahash::RandomState;
use hashbrown::HashTable;

#[derive(Default)]
struct Entry {
    text: Box<str>,
    uses: u64,
}

/// Texts and their numbers.
#[derive(Default)]
pub(super) struct Symbols {
    numbers: HashTable<u32>,
    entries: Slab<Entry>,
    hashing: RandomState,
}

impl Symbols {
    /// The number of a text, if it has one.
    pub fn find(&self, text: &str) -> Option<u32> {
        let hash = self.hashing.hash_one(text);
        self.numbers.find(hash, |&number| &*self.entries[number].text == text).copied()
    }

    /// The number of a text, which is used once more.
    pub fn take(&mut self, text: &str) -> u32 {
        if let Some(number) = self.find(text) {
            self.entries[number].uses += 1;
            return number;
        }
        let number = self.entries.insert(Entry { text: text.into(), uses: 1 });
        let (entries, hashing) = (&self.entries, &self.hashing);
        self.numbers
            .insert_unique(hashing.hash_one(text), number, |&other| hashing.hash_one(&*entries[other].text));
        number
    }

    /// The text is used once less.
    pub fn release(&mut self, number: u32) {
        let entry = &mut self.entries[number];
        entry.uses -= 1;
        if entry.uses > 0 {
            return;
        }
        let hash = self.hashing.hash_one(&*entry.text);
        if let Ok(found) = self.numbers.find_entry(hash, |&other| other == number) {
            found.remove();
        }
        self.entries.remove(number);
        if self.numbers.is_empty() {
            self.numbers = HashTable::new();
        }
    }

    /// How many texts there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// The text of a number.
    pub fn text(&self, number: u32) -> &str {
        &self.entries[number].text
    }
}

#[cfg(test)]
mod tests {
    use super::Symbols;

    #[test]
    fn a_text_is_there_as_long_as_it_is_used() {
        let mut symbols = Symbols::default();
        let a = symbols.take("a");
        assert_eq!(symbols.take("a"), a);
        let b = symbols.take("b");
        assert_eq!((symbols.text(a), symbols.text(b)), ("a", "b"));
        symbols.release(a);
        assert_eq!(symbols.find("a"), Some(a));
        symbols.release(a);
        assert_eq!((symbols.find("a"), symbols.find("b")), (None, Some(b)));
    }
}
