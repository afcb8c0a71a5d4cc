use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes in a grain: the unit in which the overlay knows who wrote what. One page.
pub(crate) const GRAIN: u64 = 4096;
/// Grains in a leaf: 8 MiB of disk in 512 bytes of memory, the unit that is kept in `state`.
const LEAF_GRAINS: u64 = 2048;
/// Leaves in a branch: 16 GiB of disk.
const BRANCH_LEAVES: u64 = 2048;
/// Branches in a table: 64 TiB of disk, in 64 KiB of memory when nothing is written.
const BRANCHES: u64 = 4096;
/// The largest disk, in bytes. VMDK ends at 62 TiB.
pub const DISK_MAX: u64 = GRAIN * LEAF_GRAINS * BRANCH_LEAVES * BRANCHES;
/// Grains in a word: two bits each.
const WORD_GRAINS: u64 = 32;
const LEAF_WORDS: usize = (LEAF_GRAINS / WORD_GRAINS) as usize;
/// Bytes of a leaf as it is kept.
pub(crate) const LEAF_BYTES: usize = LEAF_WORDS * 8;

/// Who answers for a grain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Never written: the recovery point.
    Base = 0,
    /// The overlay's data file.
    Data = 1,
    /// Written with zeros: no bytes are kept.
    Zero = 2,
}

impl Owner {
    /// A word of 32 grains that are all this owner's.
    fn word(self) -> u64 {
        self as u64 * 0x5555_5555_5555_5555
    }

    fn of_bits(bits: u64) -> Self {
        match bits & 3 {
            0 => Self::Base,
            1 => Self::Data,
            _ => Self::Zero,
        }
    }
}

/// The grains that the bytes in `range` touch.
pub(crate) fn grains_of(range: &Range<u64>) -> Range<u64> {
    let first = range.start / GRAIN;
    let end = if range.is_empty() { first } else { range.end.div_ceil(GRAIN) };
    first..end
}

/// The owner of each grain of a disk. Memory follows what was written: a leaf exists once one of
/// its grains is not the base's.
///
/// Readers need no lock. Writers take turns (the journal's order), so a word is never raced for.
pub(crate) struct GrainTable {
    branches: Box<[OnceLock<Branch>]>,
    written: AtomicU64,
    data: AtomicU64,
}

type Branch = Box<[OnceLock<Leaf>]>;
type Leaf = Box<[AtomicU64; LEAF_WORDS]>;

fn locks<T>(count: u64) -> Box<[OnceLock<T>]> {
    (0..count).map(|_| OnceLock::new()).collect()
}

impl GrainTable {
    pub(crate) fn new() -> Self {
        Self { branches: locks(BRANCHES), written: AtomicU64::new(0), data: AtomicU64::new(0) }
    }

    /// How many grains are not the base's.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// How many grains are in the data file.
    pub(crate) fn data(&self) -> u64 {
        self.data.load(Ordering::Relaxed)
    }

    /// Counts a word that becomes `new`.
    fn count(&self, old: u64, new: u64) {
        self.written.fetch_add(written_in(new), Ordering::Relaxed);
        self.written.fetch_sub(written_in(old), Ordering::Relaxed);
        self.data.fetch_add(data_in(new), Ordering::Relaxed);
        self.data.fetch_sub(data_in(old), Ordering::Relaxed);
    }

    pub(crate) fn owner(&self, grain: u64) -> Owner {
        let Some(leaf) = self.leaf(grain / LEAF_GRAINS) else { return Owner::Base };
        let (word, shift) = place(grain);
        Owner::of_bits(leaf[word].load(Ordering::Acquire) >> shift)
    }

    /// The owner of `grain` and the end, at most `end`, of the run of grains that share it.
    pub(crate) fn run_at(&self, grain: u64, end: u64) -> (Owner, u64) {
        let owner = self.owner(grain);
        let mut at = grain + 1;
        while at < end {
            let step = self.step(at, owner);
            if step == 0 {
                break;
            }
            at += step;
        }
        (owner, at.min(end))
    }

    /// How far beyond `at` all grains are surely `owner`'s, in as large a stride as there is.
    fn step(&self, at: u64, owner: Owner) -> u64 {
        let (leaf_idx, in_leaf) = (at / LEAF_GRAINS, at % LEAF_GRAINS);
        let Some(branch) = self.branch(leaf_idx) else {
            let branch_grains = LEAF_GRAINS * BRANCH_LEAVES;
            return if owner == Owner::Base { branch_grains - at % branch_grains } else { 0 };
        };
        let Some(leaf) = branch[(leaf_idx % BRANCH_LEAVES) as usize].get() else {
            return if owner == Owner::Base { LEAF_GRAINS - in_leaf } else { 0 };
        };
        let (word, shift) = place(at);
        let bits = leaf[word].load(Ordering::Acquire);
        if shift == 0 && bits == owner.word() {
            return WORD_GRAINS;
        }
        u64::from(Owner::of_bits(bits >> shift) == owner)
    }

    /// Gives `grains` to `owner`. Callers take turns.
    pub(crate) fn set(&self, grains: Range<u64>, owner: Owner) {
        let mut at = grains.start;
        while at < grains.end {
            let (word, shift) = place(at);
            let count = (WORD_GRAINS - shift / 2).min(grains.end - at);
            let mask =
                if count == WORD_GRAINS { u64::MAX } else { ((1 << (2 * count)) - 1) << shift };
            let cell = &self.leaf_or_new(at / LEAF_GRAINS)[word];
            let old = cell.load(Ordering::Relaxed);
            let new = (old & !mask) | (owner.word() & mask);
            self.count(old, new);
            // Released after the bytes are in the data file, acquired before they are read.
            cell.store(new, Ordering::Release);
            at += count;
        }
    }

    /// The leaves that `grains` touch, by their number in the disk.
    pub(crate) fn leaves_of(grains: &Range<u64>) -> Range<u32> {
        let end = if grains.is_empty() { 0 } else { grains.end.div_ceil(LEAF_GRAINS) };
        (grains.start / LEAF_GRAINS) as u32..end as u32
    }

    /// A leaf as it is kept: its words, little-endian.
    pub(crate) fn leaf_bytes(&self, idx: u32) -> [u8; LEAF_BYTES] {
        let mut bytes = [0; LEAF_BYTES];
        if let Some(leaf) = self.leaf(u64::from(idx)) {
            for (word, out) in leaf.iter().zip(bytes.as_chunks_mut::<8>().0) {
                *out = word.load(Ordering::Acquire).to_le_bytes();
            }
        }
        bytes
    }

    /// Whether a grain of the leaf was ever written.
    pub(crate) fn has_leaf(&self, idx: u32) -> bool {
        self.leaf(u64::from(idx)).is_some()
    }

    /// Takes a leaf as it was kept. `false` if the bytes are none.
    pub(crate) fn load_leaf(&self, idx: u32, bytes: &[u8]) -> bool {
        let (words, rest) = bytes.as_chunks::<8>();
        if words.len() != LEAF_WORDS
            || !rest.is_empty()
            || u64::from(idx) >= BRANCHES * BRANCH_LEAVES
        {
            return false;
        }
        let words = || words.iter().map(|word| u64::from_le_bytes(*word));
        if words().any(|word| word & (word >> 1) & Owner::Data.word() != 0) {
            return false;
        }
        let leaf = self.leaf_or_new(u64::from(idx));
        for (cell, word) in leaf.iter().zip(words()) {
            self.count(cell.load(Ordering::Relaxed), word);
            cell.store(word, Ordering::Release);
        }
        true
    }

    fn branch(&self, leaf: u64) -> Option<&Branch> {
        self.branches[(leaf / BRANCH_LEAVES) as usize].get()
    }

    fn leaf(&self, idx: u64) -> Option<&Leaf> {
        self.branch(idx)?[(idx % BRANCH_LEAVES) as usize].get()
    }

    fn leaf_or_new(&self, idx: u64) -> &Leaf {
        let branch =
            self.branches[(idx / BRANCH_LEAVES) as usize].get_or_init(|| locks(BRANCH_LEAVES));
        let leaf = &branch[(idx % BRANCH_LEAVES) as usize];
        leaf.get_or_init(|| Box::new([const { AtomicU64::new(0) }; LEAF_WORDS]))
    }
}

/// The word within its leaf and the bit within that word where `grain`'s owner is.
fn place(grain: u64) -> (usize, u64) {
    ((grain % LEAF_GRAINS / WORD_GRAINS) as usize, grain % WORD_GRAINS * 2)
}

/// Grains in a word that are not the base's.
fn written_in(word: u64) -> u64 {
    u64::from(((word | (word >> 1)) & Owner::Data.word()).count_ones())
}

/// Grains in a word that are in the data file.
fn data_in(word: u64) -> u64 {
    u64::from((word & Owner::Data.word()).count_ones())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn owner() -> impl Strategy<Value = Owner> {
        prop_oneof![Just(Owner::Base), Just(Owner::Data), Just(Owner::Zero)]
    }

    proptest! {
        /// A table is an array of owners: one by one, in runs, and after a leaf was kept and loaded.
        #[test]
        fn a_table_is_an_array(sets in prop::collection::vec((0u64..5000, 1u64..3000, owner()), 1..20)) {
            let table = GrainTable::new();
            let mut model = vec![Owner::Base; 8192];
            for (start, len, owner) in sets {
                table.set(start..start + len, owner);
                model[start as usize..(start + len) as usize].fill(owner);
            }
            let kept = GrainTable::new();
            for leaf in GrainTable::leaves_of(&(0..8192)) {
                prop_assert!(kept.load_leaf(leaf, &table.leaf_bytes(leaf)));
            }
            let written = model.iter().filter(|o| **o != Owner::Base).count() as u64;
            for table in [&table, &kept] {
                prop_assert_eq!(table.written(), written);
                prop_assert_eq!(table.data(), model.iter().filter(|o| **o == Owner::Data).count() as u64);
                let mut at = 0;
                while at < 8192 {
                    let (owner, end) = table.run_at(at, 8192);
                    prop_assert!(model[at as usize..end as usize].iter().all(|o| *o == owner));
                    prop_assert!(end == 8192 || model[end as usize] != owner);
                    at = end;
                }
                prop_assert!((0..8192).all(|g| table.owner(g) == model[g as usize]));
            }
        }
    }

    #[test]
    fn an_empty_disk_is_one_run_and_little_memory() {
        let table = GrainTable::new();
        assert_eq!(table.run_at(0, DISK_MAX / GRAIN), (Owner::Base, DISK_MAX / GRAIN));
        table.set(DISK_MAX / GRAIN - 1..DISK_MAX / GRAIN, Owner::Data);
        assert_eq!(table.run_at(0, DISK_MAX / GRAIN), (Owner::Base, DISK_MAX / GRAIN - 1));
    }

    #[test]
    fn bytes_that_are_no_leaf_are_refused() {
        let table = GrainTable::new();
        assert!(!table.load_leaf(0, &[0; LEAF_BYTES - 1]));
        assert!(!table.load_leaf(0, &[0xff; LEAF_BYTES]));
        assert!(!table.load_leaf(u32::MAX, &[0; LEAF_BYTES]));
        assert_eq!(table.written(), 0);
    }
}
