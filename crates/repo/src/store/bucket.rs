use std::ops::Deref;
use std::sync::Arc;

use super::{LocalDir, S3Bucket};

/// A bucket as it is read: with what a hot copy has of it, or as it is.
#[derive(Clone)]
pub(crate) struct Bucket {
    s3: Arc<S3Bucket>,
    as_it_is: bool,
}

impl Bucket {
    pub(super) fn new(s3: Arc<S3Bucket>) -> Self {
        Self { s3, as_it_is: false }
    }

    /// The same without its hot copy.
    pub(super) fn as_it_is(&self) -> Self {
        Self { s3: self.s3.clone(), as_it_is: true }
    }

    /// What reads ask first.
    pub(crate) fn hot(&self) -> Option<&Arc<LocalDir>> {
        if self.as_it_is { None } else { self.s3.hot() }
    }
}

impl Deref for Bucket {
    type Target = Arc<S3Bucket>;

    fn deref(&self) -> &Self::Target {
        &self.s3
    }
}
