//! Storage classes: what is cold, thawing it, and moving objects from one to another.

use std::collections::BTreeSet;
use std::sync::Arc;

use aws_sdk_s3::types::{
    GlacierJobParameters, MetadataDirective, ObjectStorageClass, RestoreRequest, StorageClass,
    Tier as GlacierTier,
};
use jiff::Timestamp;
use tokio::task::JoinSet;

use super::S3Bucket;
use super::request::{Failure, Patience};
use crate::RepoError;
use crate::id::PackId;
use crate::store::{pack_object, pack_of};
use crate::tier::{Retrieval, ThawOptions, Tier, parse_restore};

/// How a pack is to be had.
#[derive(Clone, Debug)]
pub(crate) struct PackState {
    pub(crate) pack: PackId,
    pub(crate) len: u64,
    pub(crate) tier: Tier,
    pub(crate) thawed: Thawed,
}

/// Whether an object in a cold tier can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Thawed {
    /// It was not asked for.
    No,
    /// It was, and takes its time.
    Coming,
    /// It can, until then.
    Until(Timestamp),
}

/// The largest object that one request copies, as Amazon has it: packs are far smaller.
const COPY_MAX: u64 = 5 << 30;
/// Objects that are asked about at once.
const AT_ONCE: usize = 32;

impl S3Bucket {
    /// How these packs are. One that is missing is corrupt: something refers to it.
    pub(crate) fn pack_states_blocking(
        self: &Arc<Self>,
        mut needed: BTreeSet<PackId>,
    ) -> Result<Vec<PackState>, RepoError> {
        let bucket = self.clone();
        self.run_blocking(async move {
            let mut found = Vec::new();
            for listed in bucket.list("packs/").await? {
                if let Some(pack) = pack_of(&listed.object).filter(|pack| needed.remove(pack)) {
                    found.push((pack, listed));
                }
            }
            let states = at_once(found, |(pack, listed)| {
                let bucket = bucket.clone();
                async move {
                    let thawed = match listed.tier.is_cold() {
                        true => bucket.thawed(&listed.object).await?,
                        false => Thawed::No,
                    };
                    Ok(PackState { pack, len: listed.len, tier: listed.tier, thawed })
                }
            });
            let states = states.await?;
            match needed.first() {
                Some(missing) => {
                    let why = "it is referred to but missing";
                    Err(RepoError::corrupt(pack_object(*missing), why))
                }
                None => Ok(states),
            }
        })
    }

    pub(crate) fn has_cold_packs_blocking(self: &Arc<Self>) -> Result<bool, RepoError> {
        let bucket = self.clone();
        self.run_blocking(async move {
            let listed = bucket.list("packs/").await?;
            Ok(listed.iter().any(|one| one.tier.is_cold()))
        })
    }

    async fn thawed(&self, object: &str) -> Result<Thawed, RepoError> {
        let head = self.persist(Patience::for_bytes(0), || async {
            let request = self.client.head_object().bucket(&self.location.bucket);
            let sent = request.key(self.location.key(object));
            self.permitted(Box::pin(sent.send())).await
        });
        let head = head.await.map_err(|failure| failure.of_object(object))?;
        Ok(head.restore().map_or(Thawed::No, parse_restore))
    }

    /// Asks for objects to be thawed. Being asked already, or thawed, is success: then they stay so for as long.
    pub(crate) fn restore_all_blocking(
        self: &Arc<Self>,
        objects: Vec<String>,
        options: ThawOptions,
    ) -> Result<(), RepoError> {
        let bucket = self.clone();
        self.run_blocking(async move {
            let restore = |object: String| {
                let bucket = bucket.clone();
                async move { bucket.restore(&object, options).await }
            };
            at_once(objects, restore).await.map(drop)
        })
    }

    async fn restore(&self, object: &str, options: ThawOptions) -> Result<(), RepoError> {
        let speed = match options.retrieval {
            Retrieval::Expedited => GlacierTier::Expedited,
            Retrieval::Standard => GlacierTier::Standard,
            Retrieval::Bulk => GlacierTier::Bulk,
        };
        let speed = GlacierJobParameters::builder().tier(speed).build();
        let speed = speed.map_err(|e| RepoError::refused(format!("cannot ask for a thaw: {e}")))?;
        let wanted = RestoreRequest::builder().days(options.days as i32);
        let wanted = wanted.glacier_job_parameters(speed).build();
        let asked = self.persist(Patience::for_bytes(0), || async {
            let request = self.client.restore_object().bucket(&self.location.bucket);
            let request = request.key(self.location.key(object));
            let sent = request.restore_request(wanted.clone()).send();
            match self.permitted(Box::pin(sent)).await {
                Err(Failure::UnderWay) => Ok(()),
                other => other.map(drop),
            }
        });
        asked.await.map_err(|failure| match failure {
            Failure::Refused(why) => {
                RepoError::refused(format!("the store does not thaw {object}: {why}"))
            }
            other => other.of_object(object),
        })
    }

    /// Copies an object onto itself in another storage class: its bytes stay as they are.
    pub(crate) fn change_tier_blocking(
        self: &Arc<Self>,
        object: &str,
        len: u64,
        tier: Tier,
    ) -> Result<(), RepoError> {
        let class = match tier {
            Tier::Hot | Tier::Warm => StorageClass::Standard,
            Tier::Glacier => StorageClass::Glacier,
            Tier::DeepArchive => StorageClass::DeepArchive,
        };
        if len > COPY_MAX {
            return Err(RepoError::refused(format!("{object} is too large to be moved")));
        }
        let (bucket, object) = (self.clone(), object.to_owned());
        self.run_blocking(async move {
            let key = bucket.location.key(&object);
            let copied = bucket.persist(Patience::for_bytes(len), || async {
                let request = bucket.client.copy_object().bucket(&bucket.location.bucket);
                let source = format!("{}/{key}", bucket.location.bucket);
                let request = request.key(&key).copy_source(source).storage_class(class.clone());
                let sent = request.metadata_directive(MetadataDirective::Copy).send();
                bucket.permitted(Box::pin(sent)).await
            });
            copied.await.map(drop).map_err(|failure| failure.of_object(&object))
        })
    }
}

/// Does `work` on each, several at a time. The first error ends it.
async fn at_once<A, T, F>(all: Vec<A>, work: impl Fn(A) -> F) -> Result<Vec<T>, RepoError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, RepoError>> + Send + 'static,
{
    let mut running = JoinSet::new();
    let mut done = Vec::with_capacity(all.len());
    let mut waiting = all.into_iter();
    loop {
        while running.len() < AT_ONCE
            && let Some(one) = waiting.next()
        {
            running.spawn(work(one));
        }
        match running.join_next().await {
            None => return Ok(done),
            Some(Ok(result)) => done.push(result?),
            Some(Err(error)) => {
                let what = "finish a request".into();
                return Err(RepoError::Unavailable { what, source: error.into() });
            }
        }
    }
}

/// The tier of a storage class in a listing.
pub(super) fn tier_of(class: Option<&ObjectStorageClass>) -> Tier {
    match class {
        Some(ObjectStorageClass::Glacier) => Tier::Glacier,
        Some(ObjectStorageClass::DeepArchive) => Tier::DeepArchive,
        // What other classes there are can be read at once.
        _ => Tier::Warm,
    }
}
