mod passkeys;
mod points;
mod tiers;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use rekindle_block::{BlockHash, BlockSize};
use serde::{Deserialize, Serialize};

use crate::id::random;
use crate::images::{self, Images};
use crate::seal::keyring::Home;
use crate::seal::{DataKey, Passkey, Seal};
use crate::store::{Location, Near, REPOSITORY, Store, Writer, blocking};
use crate::tier::hot;
use crate::{DiskMap, PointManifest, RepoError, S3Stats};
use tiers::Needs;

pub use points::{CondemnedPoint, DamagedPoint, PointListing};

/// The largest `repository.json`.
const MAX_RECORD_BYTES: u64 = 64 << 10;
const VERSION: u32 = 1;

/// An open repository. Cheap to clone; reading takes no lock.
#[derive(Clone)]
pub struct Repository(Arc<Inner>);

struct Inner {
    record: Record,
    seal: Seal,
    location: Location,
    store: Store,
    /// Those that are read where they lie, if it is a place of images.
    images: Option<Images>,
    near: Near,
    needs: Needs,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repository").field("location", &self.location()).finish_non_exhaustive()
    }
}

/// `repository.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    id: String,
    block_size: BlockSize,
    created_at: Timestamp,
    /// `null`: blocks, maps and manifests are not sealed.
    encryption: Option<Encryption>,
}

/// How the objects of a repository are sealed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Encryption {
    cipher: Cipher,
    /// What the data key is known by, without telling anything about it.
    #[serde(with = "hex_digits")]
    commitment: [u8; 32],
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Cipher {
    #[serde(rename = "aes-256-gcm")]
    Aes256Gcm,
}

impl Record {
    /// What its keys belong to, if it is sealed.
    fn home(&self) -> Option<Home<'_>> {
        let Encryption { cipher: Cipher::Aes256Gcm, commitment } = self.encryption.as_ref()?;
        Some(Home { repository: &self.id, block_bytes: self.block_size.bytes(), commitment })
    }
}

/// How a repository is made.
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    /// Bytes in a block; 256 KiB if not said otherwise.
    pub block_size: BlockSize,
    /// Seals the repository: nothing in it can be read without this passkey, or another that is added later.
    pub passkey: Option<Passkey>,
    /// What that passkey is called. Not sealed.
    pub passkey_label: String,
}

impl Repository {
    /// Makes a repository in a directory that is empty or does not exist, or below a prefix where there is none. Blocks
    /// on I/O.
    pub fn create(place: impl Into<Location>, options: &CreateOptions) -> Result<Self, RepoError> {
        let place = place.into();
        if let Location::Local(dir) = &place {
            make_directories(dir)?;
        }
        let store = Store::open(&place)?;
        let writer = Writer::begin(&store)?;
        // A store that keeps the condition refuses to write it twice; others are asked.
        if matches!(place, Location::S3(_)) && Self::read_record(&store, &place).is_ok() {
            return Err(RepoError::refused(format!("there is a repository in {place} already")));
        }
        let data_key = options.passkey.as_ref().map(|_| DataKey::random()).transpose()?;
        let record = Record {
            version: VERSION,
            id: hex::encode(random::<16>()?),
            block_size: options.block_size,
            created_at: Timestamp::now(),
            encryption: match &data_key {
                Some(key) => {
                    let (cipher, commitment) = (Cipher::Aes256Gcm, key.commitment()?);
                    Some(Encryption { cipher, commitment })
                }
                None => None,
            },
        };
        if let (Some(key), Some(passkey)) = (&data_key, &options.passkey) {
            let label = options.passkey_label.as_str();
            passkeys::write_key(&writer, &record, key, (passkey, label), &[])?;
        }
        let text = serde_json::to_vec_pretty(&record)
            .map_err(|e| RepoError::refused(format!("cannot encode {REPOSITORY}: {e}")))?;
        // Last: what is no repository yet has no name of one.
        writer.put(REPOSITORY, &text)?;
        let seal = data_key.map_or(Seal::Open, |key| Seal::Sealed(Arc::new(key)));
        let (near, needs) = (Near::default(), Needs::default());
        Ok(Self(Arc::new(Inner {
            record,
            seal,
            location: place,
            store,
            images: None,
            near,
            needs,
        })))
    }

    /// Opens the repository at `place`, which is not sealed. Blocks on I/O, and reads one small object whatever the
    /// repository holds.
    pub fn open(place: impl Into<Location>) -> Result<Self, RepoError> {
        Self::open_with(place, None)
    }

    /// Opens the repository at `place`: a sealed one with a passkey, any other without. Blocks on I/O, and with a
    /// passkey takes a tenth of a second more, whether it is the right one or not.
    pub fn open_with(
        place: impl Into<Location>,
        passkey: Option<&Passkey>,
    ) -> Result<Self, RepoError> {
        let place = place.into();
        Self::open_in(Store::open(&place)?, place, passkey, Near::default())
    }

    /// The same in a store that is at hand.
    pub(crate) fn open_in(
        store: Store,
        place: Location,
        passkey: Option<&Passkey>,
        near: Near,
    ) -> Result<Self, RepoError> {
        let record = Self::read_record(&store, &place)?;
        let seal = passkeys::open_seal(&record, &store, passkey)?;
        let hot = near.hot.clone();
        let needs = Needs::default();
        let inner = Inner { record, seal, location: place, store, images: None, near, needs };
        let repository = Self(Arc::new(inner));
        if let Some(dir) = hot
            && let Err(error) = repository.keep_hot_in(&dir)
        {
            tracing::warn!("hot copies are not used: {}", error.told());
        }
        Ok(repository)
    }

    /// Has reads prefer the hot copy in `dir`, which is made if that is empty or not there. Blocks on I/O.
    ///
    /// `Refused` if something else is in it, or the repository is not in a bucket.
    pub fn keep_hot_in(&self, dir: &Path) -> Result<(), RepoError> {
        self.refuse_images("have hot copies")?;
        let Store::S3(bucket) = self.store() else {
            return Err(RepoError::refused("a directory is hot by itself"));
        };
        bucket.use_hot(hot::prepare(dir, self.id())?);
        Ok(())
    }

    /// Opens a place where others left images of VMs: each of these is a recovery point as it lies, and nothing is
    /// written there. Blocks on I/O; sends no request. What is there is looked at when points are asked for.
    pub fn open_images(place: impl Into<Location>) -> Result<Self, RepoError> {
        let place = place.into();
        if let Location::Local(dir) = &place {
            let meta = fs::metadata(dir);
            let meta = meta.map_err(|e| RepoError::io(format!("open {}", dir.display()), e))?;
            if !meta.is_dir() {
                return Err(RepoError::refused(format!("{place} is no directory")));
            }
        }
        let store = Store::open_read_only(&place)?;
        let id =
            hex::encode(&BlockHash::of(format!("images in {place}").as_bytes()).as_bytes()[..16]);
        let images = Some(Images::new(id.clone(), &place, &store));
        let block_size = images::BLOCK_SIZE;
        let created_at = Timestamp::UNIX_EPOCH;
        let record = Record { version: VERSION, id, block_size, created_at, encryption: None };
        let (seal, near, needs) = (Seal::Open, Near::default(), Needs::default());
        Ok(Self(Arc::new(Inner { record, seal, location: place, store, images, near, needs })))
    }

    /// Whether it is a place of images, which is only read.
    pub fn has_images(&self) -> bool {
        self.0.images.is_some()
    }

    /// What kind it is: `local`, `s3`, or `images`.
    pub fn kind(&self) -> &'static str {
        match (&self.0.images, &self.0.location) {
            (Some(_), _) => "images",
            (None, Location::Local(_)) => "local",
            (None, Location::S3(_)) => "s3",
        }
    }

    /// An error if it is a place of images, which cannot `what`.
    pub(crate) fn refuse_images(&self, what: &str) -> Result<(), RepoError> {
        match self.has_images() {
            true => Err(RepoError::refused(format!(
                "a repository of images cannot {what}; it is read where it lies, as others left it"
            ))),
            false => Ok(()),
        }
    }

    /// Asks the images, where that holds up no other task.
    async fn ask_images<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Images) -> Result<T, RepoError> + Send + 'static,
    ) -> Result<T, RepoError> {
        let this = self.clone();
        let none = || RepoError::refused("it is no repository of images");
        blocking(move || this.0.images.as_ref().ok_or_else(none).and_then(ask)).await
    }

    fn read_record(store: &Store, place: &Location) -> Result<Record, RepoError> {
        let decode = |bytes: Vec<u8>| decode_record(&bytes);
        store.read_all_blocking(REPOSITORY, MAX_RECORD_BYTES, decode).map_err(|error| match error {
            RepoError::NotFound { .. } => {
                RepoError::NotFound { what: format!("a repository in {place}") }
            }
            other => other,
        })
    }

    /// Asks the store for one small object. Blocks on I/O.
    pub(crate) fn ask(&self) -> Result<(), RepoError> {
        Self::read_record(self.store(), self.location()).map(|_| ())
    }

    /// The repository's name for life: 32 hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.0.record.id
    }

    /// Bytes in a block of its disks.
    pub fn block_size(&self) -> BlockSize {
        self.0.record.block_size
    }

    /// Where it is.
    pub fn location(&self) -> &Location {
        &self.0.location
    }

    /// What its store was asked and answered, if it is on S3.
    pub fn s3_stats(&self) -> Option<S3Stats> {
        self.0.store.s3_stats()
    }

    /// Opens disk `index` of a point: one small read, whatever its size.
    pub async fn open_disk(
        &self,
        point: &PointManifest,
        index: usize,
    ) -> Result<DiskMap, RepoError> {
        if self.has_images() {
            let point = point.clone();
            let disk = self.ask_images(move |images| images.open_disk(&point, index)).await?;
            return Ok(DiskMap::of_image(disk));
        }
        let disk = point.disks.get(index).ok_or_else(|| RepoError::NotFound {
            what: format!("disk {index} of recovery point {}", point.id),
        })?;
        let seal = self.seal().clone();
        let copies = self.0.near.maps.as_deref();
        DiskMap::open(self.0.store.clone(), seal, self.block_size(), disk, copies).await
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    fn needs(&self) -> &Needs {
        &self.0.needs
    }

    /// How its objects are stored.
    pub(crate) fn seal(&self) -> &Seal {
        &self.0.seal
    }

    fn record(&self) -> &Record {
        &self.0.record
    }
}

mod hex_digits {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 32], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<[u8; 32], D::Error> {
        let mut bytes = [0; 32];
        let text = String::deserialize(d)?;
        hex::decode_to_slice(text, &mut bytes).map(|()| bytes).map_err(D::Error::custom)
    }
}

fn make_directories(dir: &Path) -> Result<(), RepoError> {
    let io = |e| RepoError::io(format!("create a repository in {}", dir.display()), e);
    fs::create_dir_all(dir).map_err(io)?;
    if fs::read_dir(dir).map_err(io)?.next().is_some() {
        return Err(RepoError::refused(format!("{} is not empty", dir.display())));
    }
    for sub in ["tmp", "points", "maps", "packs"] {
        fs::create_dir(dir.join(sub)).map_err(io)?;
    }
    Ok(())
}

fn decode_record(bytes: &[u8]) -> Result<Record, RepoError> {
    let corrupt = |e: serde_json::Error| RepoError::corrupt(REPOSITORY, e.to_string());
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
        encryption: Option<serde_json::Value>,
    }
    let Versioned { version, encryption } = serde_json::from_slice(bytes).map_err(corrupt)?;
    if version != VERSION {
        return Err(RepoError::refused(format!(
            "the repository has format version {version}; this build reads version {VERSION}"
        )));
    }
    if encryption.is_some_and(|value| serde_json::from_value::<Encryption>(value).is_err()) {
        return Err(RepoError::refused(
            "the repository is encrypted in a way that this build cannot read",
        ));
    }
    let record: Record = serde_json::from_slice(bytes).map_err(corrupt)?;
    if record.id.len() != 32 || !record.id.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(RepoError::corrupt(REPOSITORY, "its id is no id"));
    }
    Ok(record)
}
