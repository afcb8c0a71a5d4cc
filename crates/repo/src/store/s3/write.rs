use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use bytes::{Bytes, BytesMut};
use tokio::task::JoinHandle;

use super::S3Bucket;
use super::request::{Failure, Patience};
use crate::RepoError;
use crate::id::random;
use crate::map::build::MapSink;

/// Bytes in a part of a large object; every store takes parts of 5 MiB and more. 10 000 of them are 78 GiB, and the
/// largest object is the map of a disk of 64 TiB at 4 KiB blocks: 768 GiB do not occur, as no such disk is full.
const PART_BYTES: usize = 8 << 20;
/// Parts that travel at once.
const PARTS_AT_ONCE: usize = 4;

/// The right to write to a bucket. Several writers may have it at a time: objects have random names and are created,
/// never replaced.
///
/// # Crash
///
/// An object is there when it is whole: a PUT, or the completion of its parts. A writer that dies leaves parts that
/// nobody sees, which a later writer takes away when they are old enough (`uploads.rs`).
pub(crate) struct S3Writer(Arc<S3Bucket>);

impl S3Writer {
    /// Asks whether the store lets us write, and keeps its promises; takes away what was left unfinished `abandoned`
    /// ago.
    pub(crate) fn begin(bucket: &Arc<S3Bucket>, abandoned: Duration) -> Result<Self, RepoError> {
        let probed = bucket.clone();
        bucket.run_blocking(async move {
            probed.probe().await?;
            probed.sweep_uploads(abandoned).await;
            Ok(())
        })?;
        Ok(Self(bucket.clone()))
    }

    /// Asks nothing: what cannot be written is found out then.
    pub(crate) fn beside_others(bucket: &Arc<S3Bucket>) -> Self {
        Self(bucket.clone())
    }

    pub(crate) fn create(&self, object: String) -> S3Object {
        S3Object {
            bucket: self.0.clone(),
            object,
            buffer: BytesMut::new(),
            upload: None,
            parts: VecDeque::new(),
            done: Vec::new(),
            number: 0,
        }
    }

    pub(crate) fn remove(&self, object: &str) -> Result<(), RepoError> {
        let (bucket, object) = (self.0.clone(), object.to_owned());
        self.0.run_blocking(async move { bucket.delete(&object).await })
    }
}

/// An object that is being written: small ones are kept until they are published, large ones travel in parts.
pub(crate) struct S3Object {
    bucket: Arc<S3Bucket>,
    object: String,
    buffer: BytesMut,
    upload: Option<String>,
    parts: VecDeque<JoinHandle<Result<CompletedPart, RepoError>>>,
    done: Vec<CompletedPart>,
    number: i32,
}

impl MapSink for S3Object {
    fn append(&mut self, mut bytes: &[u8]) -> Result<(), RepoError> {
        while !bytes.is_empty() {
            let room = PART_BYTES - self.buffer.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == PART_BYTES {
                self.send_part()?;
            }
        }
        Ok(())
    }
}

impl S3Object {
    fn send_part(&mut self) -> Result<(), RepoError> {
        let upload = match &self.upload {
            Some(upload) => upload.clone(),
            None => {
                let (bucket, object) = (self.bucket.clone(), self.object.clone());
                let begun =
                    self.bucket.run_blocking(async move { bucket.begin_parts(&object).await });
                self.upload.insert(begun?).clone()
            }
        };
        while self.parts.len() >= PARTS_AT_ONCE {
            self.await_part()?;
        }
        self.number += 1;
        let (bucket, object, number) = (self.bucket.clone(), self.object.clone(), self.number);
        let part = std::mem::take(&mut self.buffer).freeze();
        let sent = async move { bucket.put_part(&object, &upload, number, part).await };
        self.parts.push_back(self.bucket.runtime.spawn(sent));
        Ok(())
    }

    fn await_part(&mut self) -> Result<(), RepoError> {
        let Some(part) = self.parts.pop_front() else { return Ok(()) };
        let part = self.bucket.run_blocking(async move {
            part.await.map_err(|error| RepoError::Unavailable {
                what: "write a part of an object".into(),
                source: error.into(),
            })?
        });
        self.done.push(part?);
        Ok(())
    }

    /// Gives it its name, which must be new. It is durable when this returns.
    pub(crate) fn publish(mut self) -> Result<(), RepoError> {
        let (bucket, object) = (self.bucket.clone(), self.object.clone());
        if self.upload.is_none() {
            let bytes = std::mem::take(&mut self.buffer).freeze();
            return self.bucket.run_blocking(async move { bucket.put(&object, bytes).await });
        }
        if !self.buffer.is_empty() {
            self.send_part()?;
        }
        while !self.parts.is_empty() {
            self.await_part()?;
        }
        let parts = std::mem::take(&mut self.done);
        let Some(upload) = self.upload.clone() else { return Err(RepoError::Cancelled) };
        self.bucket
            .run_blocking(async move { bucket.finish_parts(&object, &upload, parts).await })?;
        self.upload = None;
        Ok(())
    }
}

impl Drop for S3Object {
    /// What was sent of an object that will not be is taken away; if that fails, a later writer does it.
    fn drop(&mut self) {
        for part in self.parts.drain(..) {
            part.abort();
        }
        let Some(upload) = self.upload.take() else { return };
        let (bucket, object) = (self.bucket.clone(), self.object.clone());
        self.bucket.runtime.spawn(async move { bucket.abandon(&object, &upload).await });
    }
}

/// The checksum that a store keeps with what it is sent, or refuses it by.
fn crc32c(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(crc32c::crc32c(bytes).to_be_bytes())
}

impl S3Bucket {
    pub(super) async fn put(&self, object: &str, bytes: Bytes) -> Result<(), RepoError> {
        let mut tries = 0;
        let len = bytes.len() as u64;
        let put = self.persist(Patience::for_bytes(len), || {
            tries += 1;
            let request = self.client.put_object().bucket(&self.location.bucket);
            let request = request.key(self.location.key(object)).if_none_match("*");
            let request = request.content_length(bytes.len() as i64);
            let request = request.checksum_crc32_c(crc32c(&bytes));
            let sent = request.body(ByteStream::from(bytes.clone()));
            async { self.permitted(Box::pin(sent.send())).await }
        });
        match put.await {
            // An attempt before it had arrived after all.
            Err(Failure::Exists) if tries > 1 => {}
            other => other.map(drop).map_err(|failure| failure.of_write(object))?,
        }
        self.counts.puts.add(1);
        self.counts.put_bytes.add(len);
        Ok(())
    }

    /// The work is boxed, as the SDK's futures are large.
    pub(super) async fn permitted<T, E>(
        &self,
        work: Pin<Box<impl Future<Output = Result<T, E>>>>,
    ) -> Result<T, Failure>
    where
        Failure: From<E>,
    {
        let _permit = self.permits.acquire().await.map_err(Failure::again)?;
        Ok(work.await?)
    }

    async fn begin_parts(&self, object: &str) -> Result<String, RepoError> {
        let begun = self.persist(Patience::for_bytes(0), || async {
            let request = self.client.create_multipart_upload().bucket(&self.location.bucket);
            let request = request.key(self.location.key(object));
            let request = request.checksum_algorithm(ChecksumAlgorithm::Crc32C);
            let answer = self.permitted(Box::pin(request.send())).await?;
            answer.upload_id.ok_or_else(|| Failure::again(anyhow::anyhow!("an upload of no id")))
        });
        begun.await.map_err(|failure| failure.of_write(object))
    }

    async fn put_part(
        &self,
        object: &str,
        upload: &str,
        number: i32,
        bytes: Bytes,
    ) -> Result<CompletedPart, RepoError> {
        let len = bytes.len() as u64;
        let checksum = crc32c(&bytes);
        let sent = self.persist(Patience::for_bytes(len), || {
            let request = self.client.upload_part().bucket(&self.location.bucket);
            let request = request.key(self.location.key(object)).upload_id(upload);
            let request = request.part_number(number).content_length(bytes.len() as i64);
            let request = request.checksum_crc32_c(&checksum);
            let sent = request.body(ByteStream::from(bytes.clone()));
            async { self.permitted(Box::pin(sent.send())).await }
        });
        let answer = sent.await.map_err(|failure| failure.of_part(object))?;
        self.counts.puts.add(1);
        self.counts.put_bytes.add(len);
        // A store that keeps no such checksum does not want to hear it again.
        let kept = answer.checksum_crc32_c.clone();
        let part = CompletedPart::builder().part_number(number).set_e_tag(answer.e_tag);
        Ok(part.set_checksum_crc32_c(kept).build())
    }

    async fn finish_parts(
        &self,
        object: &str,
        upload: &str,
        parts: Vec<CompletedPart>,
    ) -> Result<(), RepoError> {
        let whole = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let mut tries = 0;
        let finished = self.persist(Patience::for_bytes(64 << 20), || {
            tries += 1;
            let request = self.client.complete_multipart_upload().bucket(&self.location.bucket);
            let request = request.key(self.location.key(object)).upload_id(upload);
            let sent = request.if_none_match("*").multipart_upload(whole.clone());
            async { self.permitted(Box::pin(sent.send())).await }
        });
        match finished.await {
            // The upload is gone or the object there because an attempt before it had arrived after all.
            Err(Failure::Missing | Failure::Exists) if tries > 1 && self.exists(object).await? => {
                Ok(())
            }
            other => other.map(drop).map_err(|failure| failure.of_part(object)),
        }
    }

    async fn exists(&self, object: &str) -> Result<bool, RepoError> {
        let head = self.persist(Patience::for_bytes(0), || async {
            let request = self.client.head_object().bucket(&self.location.bucket);
            let sent = request.key(self.location.key(object));
            self.permitted(Box::pin(sent.send())).await
        });
        match head.await {
            Ok(_) => Ok(true),
            Err(Failure::Missing) => Ok(false),
            Err(failure) => Err(failure.of_object(object)),
        }
    }

    /// Idempotent.
    pub(super) async fn delete(&self, object: &str) -> Result<(), RepoError> {
        let deleted = self.persist(Patience::for_bytes(0), || async {
            let request = self.client.delete_object().bucket(&self.location.bucket);
            let sent = request.key(self.location.key(object));
            self.permitted(Box::pin(sent.send())).await
        });
        match deleted.await {
            Ok(_) | Err(Failure::Missing) => Ok(()),
            Err(failure) => Err(failure.of_write(object)),
        }
    }

    /// Whether the store refuses to create what exists. Where it does not, names that nobody else draws must do.
    async fn probe(&self) -> Result<(), RepoError> {
        let object = format!("tmp/{}", hex::encode(random::<16>()?));
        self.put(&object, Bytes::from_static(b"probe")).await?;
        let again = self.put(&object, Bytes::from_static(b"probe")).await;
        self.delete(&object).await?;
        match again {
            Err(RepoError::Refused { .. }) => Ok(()),
            Err(other) => Err(other),
            Ok(()) => {
                tracing::warn!(
                    place = %self.location,
                    "the S3 store ignores If-None-Match: nothing but random names keeps objects from being replaced"
                );
                Ok(())
            }
        }
    }
}

impl Failure {
    /// Of an object that travels in parts: a prune with a short grace takes them for those of a writer that died.
    fn of_part(self, object: &str) -> RepoError {
        match self {
            Self::Missing => RepoError::Unavailable {
                what: format!("write {object}"),
                source: anyhow::anyhow!(
                    "what was written of it was taken away meanwhile, as a writer's that died: run it again, and prune with a grace time of more than twice as long"
                ),
            },
            other => other.of_write(object),
        }
    }

    fn of_write(self, object: &str) -> RepoError {
        match self {
            Self::Again { why, .. } => {
                RepoError::Unavailable { what: format!("write {object}"), source: why }
            }
            Self::Exists => RepoError::refused(format!("{object} exists already")),
            Self::Refused(why) => {
                RepoError::refused(format!("the store refuses to write {object}: {why}"))
            }
            Self::Missing | Self::Short | Self::Cold | Self::UnderWay => {
                RepoError::refused(format!("the store refuses to write {object}"))
            }
        }
    }
}
