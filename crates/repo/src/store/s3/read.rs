use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::types::Object;
use jiff::Timestamp;

use super::archive::tier_of;
use super::request::{Failure, Patience};
use super::{Running, S3Bucket};
use crate::RepoError;
use crate::store::{PointPlace, StoredPack, pack_of, place_of};
use crate::tier::Tier;

/// Names in a listing: a million of some 100 bytes.
const LISTED_MAX: usize = 1_000_000;

/// What part of an object is asked for.
#[derive(Clone, Debug)]
enum Part {
    Range(Range<u64>),
    /// The last bytes, fewer if it is shorter.
    End(u64),
    /// All of it, if it is at most so long.
    Whole(u64),
    /// A range of the object that the store knows by this tag: of no other that came in its place.
    Tagged(Range<u64>, Arc<str>),
}

/// Bytes of an object, and how long the object is.
struct Got {
    bytes: Vec<u8>,
    object_len: u64,
}

/// An object of a listing.
pub(crate) struct Listed {
    pub(crate) object: String,
    pub(super) len: u64,
    pub(super) tier: Tier,
    modified_seconds: i64,
    /// What the store knows its content by, if it says so.
    tag: Option<String>,
}

/// An object that somebody else put there.
pub(crate) struct ListedFile {
    pub(crate) object: String,
    pub(crate) len: u64,
    pub(crate) tag: Arc<str>,
    pub(crate) modified: Timestamp,
}

impl S3Bucket {
    pub(crate) fn read_range<T: Send + 'static>(
        self: &Arc<Self>,
        object: &str,
        range: Range<u64>,
        check: impl Fn(Vec<u8>) -> Result<T, RepoError> + Send + Sync + 'static,
    ) -> Running<T> {
        self.run(self.clone().range(object.to_owned(), range, check))
    }

    pub(crate) fn read_range_blocking<T: Send + 'static>(
        self: &Arc<Self>,
        object: &str,
        range: Range<u64>,
        check: impl Fn(Vec<u8>) -> Result<T, RepoError> + Send + Sync + 'static,
    ) -> Result<T, RepoError> {
        self.run_blocking(self.clone().range(object.to_owned(), range, check))
    }

    async fn range<T>(
        self: Arc<Self>,
        object: String,
        range: Range<u64>,
        check: impl Fn(Vec<u8>) -> Result<T, RepoError>,
    ) -> Result<T, RepoError> {
        let fetch = || async {
            let got = self.get(&object, Part::Range(range.clone())).await;
            got.map(|got| got.bytes).map_err(|failure| failure.of_object(&object))
        };
        self.checked(fetch, check).await
    }

    pub(crate) fn read_all<T: Send + 'static>(
        self: &Arc<Self>,
        object: &str,
        max: u64,
        check: impl Fn(Vec<u8>) -> Result<T, RepoError> + Send + Sync + 'static,
    ) -> Running<T> {
        self.run(self.clone().whole(object.to_owned(), max, check))
    }

    pub(crate) fn read_all_blocking<T: Send + 'static>(
        self: &Arc<Self>,
        object: &str,
        max: u64,
        check: impl Fn(Vec<u8>) -> Result<T, RepoError> + Send + Sync + 'static,
    ) -> Result<T, RepoError> {
        self.run_blocking(self.clone().whole(object.to_owned(), max, check))
    }

    async fn whole<T>(
        self: Arc<Self>,
        object: String,
        max: u64,
        check: impl Fn(Vec<u8>) -> Result<T, RepoError>,
    ) -> Result<T, RepoError> {
        let fetch = || async {
            match self.get(&object, Part::Whole(max)).await {
                Ok(got) => Ok(got.bytes),
                Err(Failure::Missing) => Err(RepoError::NotFound { what: object.clone() }),
                Err(failure) => Err(failure.of_object(&object)),
            }
        };
        self.checked(fetch, check).await
    }

    pub(crate) fn read_end_blocking(
        self: &Arc<Self>,
        object: &str,
        len: u64,
    ) -> Result<(Vec<u8>, u64), RepoError> {
        let (bucket, object) = (self.clone(), object.to_owned());
        self.run_blocking(async move {
            let got = bucket.get(&object, Part::End(len)).await;
            let got = got.map_err(|failure| failure.of_object(&object))?;
            Ok((got.bytes, got.object_len))
        })
    }

    pub(crate) fn list_points(self: &Arc<Self>) -> Running<Vec<PointPlace>> {
        let bucket = self.clone();
        self.run(async move { bucket.points().await })
    }

    pub(crate) fn list_points_blocking(self: &Arc<Self>) -> Result<Vec<PointPlace>, RepoError> {
        let bucket = self.clone();
        self.run_blocking(async move { bucket.points().await })
    }

    async fn points(&self) -> Result<Vec<PointPlace>, RepoError> {
        let listed = self.list("points/").await?;
        Ok(listed.into_iter().map(|one| place_of(one.object)).collect())
    }

    pub(crate) fn stored_packs_blocking(self: &Arc<Self>) -> Result<Vec<StoredPack>, RepoError> {
        let bucket = self.clone();
        let listed = self.run_blocking(async move { bucket.list("packs/").await })?;
        let stored = |one: &Listed| {
            let written_at = Timestamp::from_second(one.modified_seconds).unwrap_or(Timestamp::MIN);
            let pack = pack_of(&one.object)?;
            Some(StoredPack { pack, len: one.len, tier: one.tier, written_at })
        };
        Ok(listed.iter().filter_map(stored).collect())
    }

    pub(crate) fn list_blocking(self: &Arc<Self>, folder: &str) -> Result<Vec<String>, RepoError> {
        let (bucket, folder) = (self.clone(), folder.to_owned());
        let listed = self.run_blocking(async move { bucket.list(&folder).await })?;
        Ok(listed.into_iter().map(|one| one.object).collect())
    }

    /// Bytes of an object as long as it is the one that `tag` is of. A range that is not empty.
    pub(super) fn read_tagged_blocking(
        self: &Arc<Self>,
        object: &str,
        range: Range<u64>,
        tag: &Arc<str>,
    ) -> Result<Vec<u8>, RepoError> {
        let (bucket, object, part) =
            (self.clone(), object.to_owned(), Part::Tagged(range, tag.clone()));
        self.run_blocking(async move {
            match bucket.get(&object, part).await {
                Ok(got) => Ok(got.bytes),
                Err(Failure::Exists) => {
                    Err(RepoError::corrupt(&object, "it was written to since it was opened"))
                }
                Err(Failure::Missing) => Err(RepoError::corrupt(&object, "it was removed")),
                Err(failure) => Err(failure.of_object(&object)),
            }
        })
    }

    /// All objects of the place, as files; without those of no length and no tag.
    pub(crate) fn list_files_blocking(self: &Arc<Self>) -> Result<Vec<ListedFile>, RepoError> {
        let bucket = self.clone();
        let listed = self.run_blocking(async move { bucket.list("").await })?;
        let file = |one: Listed| {
            let at = Timestamp::from_second(one.modified_seconds).unwrap_or_default();
            let tag = one.tag?.into();
            Some(ListedFile { object: one.object, len: one.len, tag, modified: at })
        };
        Ok(listed.into_iter().filter_map(file).collect())
    }

    /// All objects whose names begin so, by name.
    pub(super) async fn list(&self, prefix: &str) -> Result<Vec<Listed>, RepoError> {
        let full = self.location.key(prefix);
        let cut = full.len() - prefix.len();
        let mut listed: Vec<Listed> = Vec::new();
        let mut from: Option<String> = None;
        loop {
            let page = self.persist(Patience::for_bytes(1 << 20), || async {
                let _permit = self.permits.acquire().await.map_err(Failure::again)?;
                let request = self.client.list_objects_v2().bucket(&self.location.bucket);
                let request = request.prefix(&full).set_continuation_token(from.clone());
                request.send().await.map_err(Failure::from)
            });
            let page = page.await.map_err(|failure| failure.of_listing(prefix))?;
            listed.extend(page.contents().iter().filter_map(|one| Listed::of(one, cut)));
            if listed.len() > LISTED_MAX {
                let why = format!("there are more than {LISTED_MAX} objects below {prefix}");
                return Err(RepoError::refused(why));
            }
            from = page.next_continuation_token().map(str::to_owned);
            if from.is_none() || page.is_truncated() != Some(true) {
                return Ok(listed);
            }
        }
    }

    /// A GET, asked a second time if it is slow.
    async fn get(self: &Arc<Self>, object: &str, part: Part) -> Result<Got, Failure> {
        let key = self.location.key(object);
        self.persist(Patience::for_bytes(part.max()), || self.hedged(&key, &part)).await
    }

    async fn hedged(self: &Arc<Self>, key: &str, part: &Part) -> Result<Got, Failure> {
        let _permit = self.permits.acquire().await.map_err(Failure::again)?;
        let (begun, hedge) = (Instant::now(), self.hedge(part.max()));
        let mut first = std::pin::pin!(self.get_once(key, part));
        let result = tokio::select! {
            result = &mut first => result,
            () = tokio::time::sleep(hedge.delay()) => {
                if hedge.pay() {
                    self.counts.hedged.add(1);
                    let mut second = std::pin::pin!(self.get_once(key, part));
                    tokio::select! {
                        result = &mut first => match result {
                            Err(Failure::Again { .. }) => second.await,
                            result => result,
                        },
                        result = &mut second => match result {
                            Err(Failure::Again { .. }) => first.await,
                            result => result,
                        },
                    }
                } else {
                    first.await
                }
            }
        };
        if let Ok(got) = &result {
            hedge.answered(begun.elapsed());
            self.counts.gets.add(1);
            self.counts.got_bytes.add(got.bytes.len() as u64);
        }
        result
    }

    async fn get_once(&self, key: &str, part: &Part) -> Result<Got, Failure> {
        let request = self.client.get_object().bucket(&self.location.bucket).key(key);
        let request = match part {
            Part::Range(range) if range.is_empty() => {
                return Ok(Got { bytes: Vec::new(), object_len: 0 });
            }
            Part::Range(range) => request.range(format!("bytes={}-{}", range.start, range.end - 1)),
            Part::Tagged(range, tag) => request
                .range(format!("bytes={}-{}", range.start, range.end - 1))
                .if_match(tag.as_ref()),
            Part::End(len) => request.range(format!("bytes=-{len}")),
            Part::Whole(_) => request,
        };
        let answer = request.send().await?;
        let (expected, object_len) = part.expects(&answer)?;
        // Not every store keeps the condition of a GET.
        if let Part::Tagged(_, tag) = part
            && answer.e_tag() != Some(tag.as_ref())
        {
            return Err(Failure::Exists);
        }
        let mut bytes = Vec::with_capacity(expected as usize);
        let mut body = answer.body;
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(Failure::again)?;
            if bytes.len() as u64 + piece.len() as u64 > expected {
                return Err(Failure::again(anyhow::anyhow!("the answer is longer than it says")));
            }
            bytes.extend_from_slice(&piece);
        }
        if bytes.len() as u64 != expected {
            return Err(Failure::again(anyhow::anyhow!("the answer ends too early")));
        }
        Ok(Got { bytes, object_len })
    }
}

impl Part {
    /// Bytes that are asked for at most.
    fn max(&self) -> u64 {
        match self {
            Self::Range(range) | Self::Tagged(range, _) => range.end - range.start,
            Self::End(len) | Self::Whole(len) => *len,
        }
    }

    /// How many bytes the answer must have, and how long the object is: bounded before any memory is taken.
    fn expects(&self, answer: &GetObjectOutput) -> Result<(u64, u64), Failure> {
        let len = answer.content_length().and_then(|len| u64::try_from(len).ok());
        let len = len.ok_or_else(|| Failure::again(anyhow::anyhow!("an answer of no length")))?;
        if let Self::Whole(max) = self {
            return match len <= *max {
                true => Ok((len, len)),
                false => Err(Failure::Refused(format!("it is longer than {max} bytes"))),
            };
        }
        let told = answer.content_range().and_then(content_range).ok_or_else(|| {
            Failure::Refused("the store does not serve parts of objects (ranged GETs)".into())
        })?;
        let wanted = match self {
            Self::Range(range) | Self::Tagged(range, _) if told.1 < range.end => {
                return Err(Failure::Short);
            }
            Self::Range(range) | Self::Tagged(range, _) => range.clone(),
            Self::End(end) => told.1.saturating_sub(*end)..told.1,
            Self::Whole(_) => 0..told.1,
        };
        if told.0 != wanted || len != wanted.end - wanted.start {
            return Err(Failure::again(anyhow::anyhow!("the answer is for another range")));
        }
        Ok((len, told.1))
    }
}

/// `bytes 0-99/1000`: the range, and the length of the whole.
fn content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, len) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    Some((first..last.checked_add(1)?, len.trim().parse().ok()?))
}

impl Listed {
    fn of(object: &Object, cut: usize) -> Option<Self> {
        Some(Self {
            object: object.key()?.get(cut..)?.to_owned(),
            len: u64::try_from(object.size().unwrap_or_default()).ok()?,
            tier: tier_of(object.storage_class()),
            modified_seconds: object.last_modified().map_or(0, |time| time.secs()),
            tag: object.e_tag().map(str::to_owned),
        })
    }
}

impl Failure {
    pub(super) fn of_listing(self, what: &str) -> RepoError {
        match self {
            Self::Again { why, .. } => {
                RepoError::Unavailable { what: format!("list {what}"), source: why }
            }
            Self::Missing => RepoError::NotFound { what: "the bucket".into() },
            Self::Refused(why) => {
                RepoError::refused(format!("the store does not list {what}: {why}"))
            }
            Self::Short | Self::Cold | Self::Exists | Self::UnderWay => {
                RepoError::refused(format!("the store does not list {what}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read_or_refused() {
        assert_eq!(content_range("bytes 0-99/1000"), Some((0..100, 1000)));
        for bad in ["", "bytes */1000", "bytes 5-/9", "bytes 0-18446744073709551615/1", "0-9/10"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
