//! A recovery from request to clean-up; the mover.
