use bytes::Bytes;
use jiff::Timestamp;
use rekindle_block::BlockHash;
use serde::{Deserialize, Serialize};

use crate::seal::Seal;
use crate::{MapId, PointId, RepoError, VmId, envelope};

/// The largest manifest that is read or written: 16 MiB.
pub const MAX_MANIFEST_BYTES: u64 = 16 << 20;
/// The largest disk: 64 TiB. It bounds a map's root to 3 MiB at the smallest block size.
pub const MAX_DISK_BYTES: u64 = 64 << 40;
/// The largest nvram file that is kept with a point.
pub const MAX_NVRAM_BYTES: u64 = 4 << 20;
/// The most disks one VM has: four controllers with 64 each.
pub const MAX_DISKS: usize = 256;
const MAX_VMX_BYTES: usize = 1 << 20;
const MAX_TEXT_BYTES: usize = 1024;
const MAX_TAGS: usize = 64;
/// What a manifest's body is called in its envelope.
const FIELD: &str = "point";

/// A recovery point: one VM at one time. Immutable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PointManifest {
    /// The point's name, unique in its repository.
    pub id: PointId,
    /// Whose point it is.
    pub vm: VmIdentity,
    /// When it was taken.
    pub created_at: Timestamp,
    /// The text of its .vmx file, as it was found.
    pub vmx: String,
    /// The content of its nvram file, if it had one.
    #[serde(default, with = "base64_bytes", skip_serializing_if = "Option::is_none")]
    pub nvram: Option<Bytes>,
    /// Its disks, in the order of the .vmx.
    pub disks: Vec<DiskManifest>,
    /// The point before it of the same VM, for display only: every point reads as a full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<PointId>,
    /// Words that the operator gave it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

/// Who a VM is across its points.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmIdentity {
    /// Derived from `uuid.bios`, or from the name where there is none.
    pub id: VmId,
    /// Its display name.
    pub name: String,
    /// `uuid.bios` of its .vmx.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid_bios: Option<String>,
}

/// One disk of a point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskManifest {
    /// Where it is attached: `scsi0:0`.
    pub key: String,
    /// The base name of its file in the .vmx; no two disks of a point share one.
    pub file_name: String,
    /// The controller's kind as the .vmx names it: `pvscsi`, `lsilogic`, `ide`, `ahci`, `nvme` …
    pub adapter: String,
    /// What it was read from, for display: `raw`, `vmdk`, `qcow2` …
    pub source_format: String,
    /// Bytes that the guest sees: a multiple of 512.
    pub size_bytes: u64,
    /// Bytes that its blocks take in packs, shared with other points or not.
    pub stored_bytes: u64,
    /// The object that maps its blocks.
    pub map: MapId,
    /// Bytes in that object.
    pub map_bytes: u64,
    /// The hash of that object's root, which vouches for the rest of it.
    pub map_hash: BlockHash,
}

impl PointManifest {
    /// Bytes of all disks as the guest sees them.
    pub fn size_bytes(&self) -> u64 {
        self.disks.iter().fold(0, |sum, disk| sum.saturating_add(disk.size_bytes))
    }

    /// The stored form: JSON that carries the checksum of its own body.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, RepoError> {
        self.validate().map_err(RepoError::refused)?;
        let body = serde_json::to_vec(self)
            .map_err(|error| RepoError::refused(format!("cannot encode the manifest: {error}")))?;
        let bytes = envelope::wrap(FIELD, &body);
        if bytes.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(RepoError::refused(format!("the manifest takes {} bytes", bytes.len())));
        }
        Ok(bytes)
    }

    /// Reads the stored form of the object `what`. Untrusted: the version, the checksum and every
    /// size are checked.
    pub fn decode(what: &str, bytes: &[u8]) -> Result<Self, RepoError> {
        let corrupt = |detail: String| RepoError::corrupt(what, detail);
        if bytes.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(corrupt(format!("{} bytes is too long", bytes.len())));
        }
        let body = envelope::unwrap(FIELD, bytes).map_err(|problem| problem.into_error(what))?;
        let manifest: Self = serde_json::from_slice(body).map_err(|e| corrupt(e.to_string()))?;
        manifest.validate().map_err(corrupt)?;
        Ok(manifest)
    }

    /// The stored form of the object `object`: [`Self::encode`], which may be sealed.
    pub(crate) fn encode_for(&self, seal: &Seal, object: &str) -> Result<Vec<u8>, RepoError> {
        let bytes = envelope::seal(seal, object, self.encode()?)?;
        if bytes.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(RepoError::refused(format!("the manifest takes {} bytes", bytes.len())));
        }
        Ok(bytes)
    }

    /// Reads what [`Self::encode_for`] wrote, in the same place.
    pub(crate) fn decode_from(seal: &Seal, object: &str, bytes: &[u8]) -> Result<Self, RepoError> {
        if !seal.is_sealed() {
            return Self::decode(object, bytes);
        }
        Self::decode(object, &envelope::open(seal, object, bytes)?)
    }

    pub(crate) fn validate(&self) -> Result<(), String> {
        let bound = |what: &str, len: usize, max: usize| match len <= max {
            true => Ok(()),
            false => Err(format!("{what}: {len} is more than {max}")),
        };
        bound("bytes of VM name", self.vm.name.len(), MAX_TEXT_BYTES)?;
        bound("bytes of uuid.bios", self.vm.uuid_bios.as_ref().map_or(0, String::len), 256)?;
        bound("bytes of .vmx", self.vmx.len(), MAX_VMX_BYTES)?;
        let nvram = self.nvram.as_ref().map_or(0, Bytes::len);
        bound("bytes of nvram", nvram, MAX_NVRAM_BYTES as usize)?;
        bound("disks", self.disks.len(), MAX_DISKS)?;
        bound("tags", self.tags.len(), MAX_TAGS)?;
        for tag in &self.tags {
            bound("bytes of tag", tag.len(), MAX_TEXT_BYTES)?;
        }
        let mut names: Vec<_> = self.disks.iter().map(|d| d.file_name.to_lowercase()).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("two disks share a file name".into());
        }
        self.disks.iter().try_for_each(DiskManifest::validate)
    }
}

impl DiskManifest {
    fn validate(&self) -> Result<(), String> {
        let Self { key, file_name, size_bytes, .. } = self;
        if !is_disk_key(key) {
            return Err(format!("{key:?} is no place for a disk"));
        }
        if !is_base_name(file_name) {
            return Err(format!("{file_name:?} is no file name"));
        }
        if *size_bytes == 0 || *size_bytes > MAX_DISK_BYTES || *size_bytes % 512 != 0 {
            return Err(format!("a disk of {size_bytes} bytes"));
        }
        if self.adapter.len() > 64 || self.source_format.len() > 64 {
            return Err("a name of a format or adapter is too long".into());
        }
        Ok(())
    }
}

fn is_disk_key(key: &str) -> bool {
    let digits = |text: &str| (1..=3).contains(&text.len()) && text.parse::<u8>().is_ok();
    key.split_once(':').is_some_and(|(controller, unit)| {
        let bus = controller.trim_end_matches(|c: char| c.is_ascii_digit());
        ["scsi", "sata", "ide", "nvme"].contains(&bus)
            && digits(&controller[bus.len()..])
            && digits(unit)
    })
}

fn is_base_name(name: &str) -> bool {
    let control = name.chars().any(|c| c.is_control() || c == '/' || c == '\\' || c == '"');
    (1..=255).contains(&name.len()) && !control && name != "." && name != ".."
}

mod base64_bytes {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(b: &Option<Bytes>, s: S) -> Result<S::Ok, S::Error> {
        b.as_ref().map(|bytes| STANDARD.encode(bytes)).serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Bytes>, D::Error> {
        let text = Option::<String>::deserialize(d)?;
        text.map(|text| STANDARD.decode(text).map(Bytes::from).map_err(D::Error::custom))
            .transpose()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn sample() -> PointManifest {
        PointManifest {
            id: "20250102t030405z-00112233".parse().unwrap(),
            vm: VmIdentity { id: "vm".parse().unwrap(), name: "Web 1".into(), uuid_bios: None },
            created_at: "2025-01-02T03:04:05Z".parse().unwrap(),
            vmx: "displayName = \"Web 1\"\n".into(),
            nvram: Some(Bytes::from_static(&[1, 2, 3, 255])),
            disks: vec![DiskManifest {
                key: "scsi0:0".into(),
                file_name: "web.vmdk".into(),
                adapter: "pvscsi".into(),
                source_format: "raw".into(),
                size_bytes: 1 << 30,
                stored_bytes: 5,
                map: "00".parse().unwrap(),
                map_bytes: 112,
                map_hash: BlockHash::of(b"root"),
            }],
            parent: None,
            tags: vec!["nightly".into()],
        }
    }

    #[test]
    fn a_manifest_reads_back_and_is_json() {
        let bytes = sample().encode().unwrap();
        assert_eq!(PointManifest::decode("m", &bytes).unwrap(), sample());
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(json["point"]["vm"]["name"], "Web 1");
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let good = sample().encode().unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            assert!(PointManifest::decode("m", &bad).is_err(), "bit at {at}");
        }
        for cut in 0..good.len() {
            assert!(PointManifest::decode("m", &good[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_sealed_manifest_opens_in_its_place_and_whole_only() {
        let seal = Seal::Sealed(crate::seal::DataKey::random().unwrap().into());
        let good = sample().encode_for(&seal, "points/a/b.json").unwrap();
        let read = |seal: &Seal, object, bytes: &[u8]| {
            PointManifest::decode_from(seal, object, bytes).map_err(|error| error.to_string())
        };
        assert_eq!(read(&seal, "points/a/b.json", &good).unwrap(), sample());
        assert!(read(&seal, "points/a/c.json", &good).is_err());
        assert!(read(&Seal::Open, "points/a/b.json", &good).is_err());
        assert!(read(&seal, "points/a/b.json", &sample().encode().unwrap()).is_err());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            assert!(read(&seal, "points/a/b.json", &bad).is_err(), "bit at {at}");
        }
    }

    #[test]
    fn absurd_or_foreign_fields_are_refused() {
        type Change = fn(&mut PointManifest);
        let changes: [Change; 8] = [
            |m| m.disks[0].size_bytes = (64 << 40) + 512,
            |m| m.disks[0].size_bytes = 0,
            |m| m.disks[0].size_bytes = 1000,
            |m| m.disks[0].file_name = "../etc/passwd".into(),
            |m| m.disks[0].key = "scsi0".into(),
            |m| m.disks.push(m.disks[0].clone()),
            |m| m.vm.name = "x".repeat(2000),
            |m| m.tags = vec![String::new(); 65],
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut manifest = sample();
            change(&mut manifest);
            assert!(manifest.encode().is_err(), "change {number}");
            let body = serde_json::to_vec(&manifest).unwrap();
            let forged = envelope::wrap(FIELD, &body);
            let error = PointManifest::decode("m", &forged).unwrap_err();
            assert!(matches!(error, RepoError::Corrupt { .. }), "change {number}: {error}");
        }
    }

    #[test]
    fn a_newer_version_is_refused_by_name() {
        let newer = b"{\"version\":2,\"sealed\":\"...\"}\n";
        let error = PointManifest::decode("m", newer).unwrap_err();
        assert!(matches!(error, RepoError::Refused { .. }), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = PointManifest::decode("m", &bytes);
        }
    }
}
