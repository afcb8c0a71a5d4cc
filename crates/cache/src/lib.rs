//! Blocks at hand: RAM and ring, with one shared fetch for all who wait.
