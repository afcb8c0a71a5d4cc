use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use rekindle_block::{Block, BlockHash};

use super::{
    Circle, Contents, Head, Owned, Room, SEGMENTS_MAX, SMALL_SHARE, SURVIVORS_MAX, Writer,
};
use crate::ring::index::{BLOCKS_MAX, Place};
use crate::ring::segment::{Segment, path_of};

/// A block of a segment that is to go.
struct Candidate {
    hash: BlockHash,
    place: Place,
    /// In how many epochs it was used; what is in RAM counts once more, because its readers do not
    /// come to the ring.
    times: u32,
}

impl Writer {
    /// Drops the oldest segments until `wanted` bytes may be added or none is left. Returns their
    /// used blocks, most used first, up to `budget` bytes.
    pub(super) fn prune(&mut self, wanted: u64, mut budget: u64) -> Vec<Block> {
        let mut survivors = Vec::new();
        while !self.has_room(wanted) {
            let Some(oldest) = self.next_to_go() else { break };
            self.drop_segment(&oldest, &mut survivors, &mut budget);
        }
        survivors
    }

    /// Takes out the oldest segment of the small circle while that has its share, else of the large one.
    fn next_to_go(&mut self) -> Option<Owned> {
        let of_small = self.segments.iter().filter(|owned| owned.circle == Circle::Small);
        let small = of_small.map(|owned| owned.bytes).sum::<u64>()
            + self.small.as_ref().map_or(0, Head::bytes);
        let circle = match small >= self.bytes() / SMALL_SHARE {
            true => Circle::Small,
            false => Circle::Large,
        };
        let at = self.segments.iter().position(|owned| owned.circle == circle).unwrap_or(0);
        self.segments.remove(at)
    }

    /// Whether `wanted` bytes may be added; with 0, whether the ring may stay as it is.
    fn has_room(&self, wanted: u64) -> bool {
        self.segments.len() < SEGMENTS_MAX
            && self.shared.index.len() < BLOCKS_MAX
            && self.limits.allow(&self.dir, self.bytes(), wanted)
    }

    /// Gives segments back while others need the space. Used blocks go to what is left of the large circle's head,
    /// which was set aside before.
    pub(super) fn keep_min_free(&mut self) {
        self.looked = Instant::now();
        let left = self.large.as_ref().map_or(0, Head::left);
        let survivors = self.prune(0, SURVIVORS_MAX.min(left));
        for circle in [Circle::Small, Circle::Large] {
            if !self.has_room(0) {
                self.drop_head(circle);
            }
        }
        self.reinsert(survivors, Room::Left);
        self.publish();
    }

    /// Drops the oldest segments until the ring is `bytes` smaller; says by how much it is.
    pub(super) fn give_back(&mut self, bytes: u64) -> u64 {
        let before = self.bytes();
        let target = before.saturating_sub(bytes);
        while self.bytes() > target {
            let Some(oldest) = self.next_to_go() else { break };
            self.drop_segment(&oldest, &mut Vec::new(), &mut 0);
        }
        for circle in [Circle::Small, Circle::Large] {
            if self.bytes() > target {
                self.drop_head(circle);
            }
        }
        self.publish();
        before - self.bytes()
    }

    fn drop_head(&mut self, circle: Circle) {
        if let Some(head) = self.head(circle).take() {
            let (segment, names) = head.into_contents();
            self.retire(&segment, &names, 0);
        }
    }

    fn drop_segment(&mut self, oldest: &Owned, survivors: &mut Vec<Block>, budget: &mut u64) {
        let Some(Contents { segment, names }) = &oldest.read else {
            // What it holds is in no index yet: there is nothing to forget but the file.
            let _ = std::fs::remove_file(path_of(&self.dir, oldest.id));
            return;
        };
        let before = survivors.len();
        for Candidate { hash, place, .. } in self.used_first(segment, names) {
            let Some(rest) = budget.checked_sub(u64::from(place.span.len)) else { continue };
            if let Some(block) = self.shared.read_block(&hash, &place) {
                *budget = rest;
                survivors.push(block);
            }
        }
        if oldest.circle == Circle::Small {
            let stay: HashSet<_> = survivors[before..].iter().map(Block::hash).collect();
            let gone = names.iter().filter(|name| !stay.contains(*name));
            self.ghosts.add(gone, self.shared.index.len());
        }
        self.retire(segment, names, survivors.len() - before);
    }

    /// The used blocks of `segment`, most used first.
    fn used_first(&self, segment: &Segment, names: &[BlockHash]) -> Vec<Candidate> {
        let mut used: Vec<_> = names
            .iter()
            .filter_map(|hash| {
                let (place, times) = self.shared.index.inspect(hash)?;
                let times = times + u32::from(self.shared.ram.has(hash));
                let ours = place.segment.id() == segment.id();
                (ours && times > 0).then_some(Candidate { hash: *hash, place, times })
            })
            .collect();
        used.sort_by_key(|candidate| std::cmp::Reverse(candidate.times));
        used
    }

    /// Forgets what is in `segment`, of which `kept` blocks go round again, then deletes it.
    fn retire(&self, segment: &Arc<Segment>, names: &[BlockHash], kept: usize) {
        let gone = names.iter().filter(|hash| self.forget_in(segment, hash)).count();
        self.shared.counts.pruned_blocks.add(gone.saturating_sub(kept) as u64);
        segment.retire();
    }

    fn forget_in(&self, segment: &Segment, hash: &BlockHash) -> bool {
        let Some((place, _)) = self.shared.index.inspect(hash) else { return false };
        place.segment.id() == segment.id() && self.shared.index.remove(hash, &place)
    }

    /// What survived goes to the large circle.
    pub(super) fn reinsert(&mut self, survivors: Vec<Block>, mut room: Room) {
        let epoch = self.shared.epoch();
        let mut survivors = VecDeque::from(survivors);
        while let Some(block) = survivors.pop_front() {
            if !self.fits(Circle::Large, &block) && matches!(room, Room::Made) {
                // It takes all: they are half a segment at most, and so are those that it pushes out.
                room = Room::Left;
                survivors.extend(self.next_head(Circle::Large, &block).unwrap_or_default());
            }
            if self.fits(Circle::Large, &block) && self.append(Circle::Large, &block, epoch) {
                self.shared.counts.reinserted.add(1);
            } else {
                self.shared.counts.pruned_blocks.add(1);
            }
        }
    }
}
