//! Large objects that their writers did not finish: parts that nobody sees, and that are paid for.

use std::time::Duration;

use jiff::Timestamp;

use super::S3Bucket;
use super::request::Failure;

/// Lists of 1000 uploads that one sweep looks at. What is beyond is left to the next.
const LISTS_MAX: usize = 10;

impl S3Bucket {
    /// Takes away what was begun `after` ago or earlier, and not finished. What cannot be taken away now stays for the
    /// next writer: it costs money and does no harm.
    pub(super) async fn sweep_uploads(&self, after: Duration) {
        let begun =
            Timestamp::now().as_second() - i64::try_from(after.as_secs()).unwrap_or(i64::MAX);
        let (mut swept, mut marker) = (0, None);
        for _ in 0..LISTS_MAX {
            let request = self.client.list_multipart_uploads().bucket(&self.location.bucket);
            let request = request.prefix(self.location.key(""));
            let (key, upload) = marker.take().unzip();
            let request = request.set_key_marker(key).set_upload_id_marker(upload);
            let listed = match request.send().await.map_err(Failure::from) {
                Ok(listed) => listed,
                Err(error) => {
                    tracing::debug!("cannot list uploads that were not finished: {error:?}");
                    break;
                }
            };
            for upload in listed.uploads() {
                let (Some(key), Some(id)) = (upload.key(), upload.upload_id()) else { continue };
                let old = upload.initiated().is_some_and(|at| at.secs() <= begun);
                if let Some(object) = self.ours(key).filter(|_| old) {
                    swept += usize::from(self.abandon(object, id).await);
                }
            }
            marker = listed.next_key_marker.zip(listed.next_upload_id_marker);
            if listed.is_truncated != Some(true) || marker.is_none() {
                break;
            }
        }
        if swept > 0 {
            tracing::info!(place = %self.location, swept, "took away objects that a writer did not finish");
        }
    }

    /// The object of that key, if it is one that travels in parts. Others may keep theirs in the same bucket.
    fn ours<'a>(&self, key: &'a str) -> Option<&'a str> {
        let object = key.get(self.location.key("").len()..)?;
        (object.starts_with("packs/") || object.starts_with("maps/")).then_some(object)
    }

    /// Whether its parts are gone.
    pub(super) async fn abandon(&self, object: &str, upload: &str) -> bool {
        let request = self.client.abort_multipart_upload().bucket(&self.location.bucket);
        let sent = request.key(self.location.key(object)).upload_id(upload).send().await;
        match sent.map_err(Failure::from) {
            Ok(_) | Err(Failure::Missing) => true,
            Err(error) => {
                tracing::debug!(object, "cannot take back parts of an object: {error:?}");
                false
            }
        }
    }
}
