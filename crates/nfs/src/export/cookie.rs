//! READDIR cookies: a hash of the name, so that they hold when other names come and go, and over a restart.
//!
//! Cookies 1 and 2 are `.` and `..`. A hash has 63 bits (clients keep cookies in signed 64-bit numbers) and is
//! keyed, so that nobody can choose names whose hashes meet. Two names that do meet take neighbouring cookies.

use super::node::{Entries, Entry};

pub(crate) const DOT: u64 = 1;
pub(crate) const DOT_DOT: u64 = 2;
const FIRST: u64 = 16;
/// How far from its hash a name's cookie may be.
const NEIGHBOURS: u64 = 8;

/// Makes cookies.
#[derive(Clone)]
pub(crate) struct CookieKey([u8; 32]);

impl CookieKey {
    pub(crate) fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    fn hash(&self, name: &[u8]) -> u64 {
        let hash = blake3::keyed_hash(&self.0, name);
        let word = hash.as_bytes()[..8].iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        // Room below i64::MAX for the neighbours.
        (word >> 1).clamp(FIRST, (i64::MAX as u64) - NEIGHBOURS)
    }

    /// The entry of that name, with its cookie.
    pub(crate) fn find<'a>(&self, entries: &'a Entries, name: &[u8]) -> Option<(u64, &'a Entry)> {
        let hash = self.hash(name);
        let mut near = entries.range(hash..hash + NEIGHBOURS);
        near.find(|(_, entry)| *entry.name == *name).map(|(cookie, entry)| (*cookie, entry))
    }

    /// Adds a name that is not there; false if all its cookies are taken (odds of 2^-400).
    #[must_use]
    pub(crate) fn insert(&self, entries: &mut Entries, name: &[u8], id: u64) -> bool {
        let hash = self.hash(name);
        let Some(cookie) = (hash..hash + NEIGHBOURS).find(|c| !entries.contains_key(c)) else {
            return false;
        };
        entries.insert(cookie, Entry { name: name.into(), id });
        true
    }

    /// Takes a name out.
    pub(crate) fn remove(&self, entries: &mut Entries, name: &[u8]) -> Option<Entry> {
        let (cookie, _) = self.find(entries, name)?;
        entries.remove(&cookie)
    }
}

#[cfg(test)]
mod tests {
    use super::{CookieKey, Entries, FIRST};

    #[test]
    fn cookies_are_stable_distinct_and_fit_signed_numbers() {
        let key = CookieKey::new([3; 32]);
        let fill = |names: &mut dyn Iterator<Item = u32>| {
            let mut entries = Entries::new();
            for n in names {
                assert!(key.insert(&mut entries, format!("f{n}").as_bytes(), u64::from(n)));
            }
            entries
        };
        let forwards = fill(&mut (0..5000));
        let backwards = fill(&mut (0..5000).rev());
        assert_eq!(forwards.len(), 5000);
        for n in 0..5000_u32 {
            let name = format!("f{n}");
            let (cookie, entry) = key.find(&forwards, name.as_bytes()).unwrap();
            assert_eq!(entry.id, u64::from(n));
            assert_eq!(key.find(&backwards, name.as_bytes()).unwrap().0, cookie);
            assert!((FIRST..=i64::MAX as u64).contains(&cookie));
        }
    }

    #[test]
    fn names_whose_hashes_meet_live_side_by_side() {
        let key = CookieKey::new([3; 32]);
        let mut entries = Entries::new();
        let hash = key.hash(b"a");
        entries.insert(hash, super::Entry { name: b"other".as_slice().into(), id: 1 });
        assert!(key.insert(&mut entries, b"a", 2));
        assert_eq!(key.find(&entries, b"a").map(|(cookie, e)| (cookie, e.id)), Some((hash + 1, 2)));
        entries.remove(&hash);
        assert_eq!(key.remove(&mut entries, b"a").map(|e| e.id), Some(2));
        assert!(key.find(&entries, b"a").is_none());
    }
}
