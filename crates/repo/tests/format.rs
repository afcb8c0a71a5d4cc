//! The format is what `packaging/docs/REPOSITORY.md` says, and stays readable: samples of each version open, and a
//! reader that knows only the document's tables finds in them what was written.

#![expect(clippy::unwrap_used, reason = "a helper of a test ends it as the test itself would")]

#[path = "support/points.rs"]
mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rekindle_block::BlockHash;
use rekindle_repo::{CheckOptions, CheckProgress, PointManifest, Repository, check};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk};
use serde_json::Value;
use support::{PASSKEY, files, open_disk, passkey, read_disk, take_in, wait};
use tempfile::TempDir;

const SIZE: usize = (5 << 20) + 512;
const BLOCK: usize = 4096;

fn noise(n: u32) -> u32 {
    let z = n.wrapping_add(1).wrapping_mul(0x9E37_79B9);
    let z = (z ^ (z >> 15)).wrapping_mul(0x85EB_CA6B);
    let z = (z ^ (z >> 13)).wrapping_mul(0xC2B2_AE35);
    z ^ (z >> 16)
}

/// The disk of the samples, as `examples/sample.rs` wrote it.
fn sample_disk() -> Vec<u8> {
    let mut disk = vec![0; SIZE];
    let random: Vec<u8> = (0..1024).flat_map(|n| noise(n).to_le_bytes()).collect();
    disk[..BLOCK].copy_from_slice(&random);
    disk[BLOCK..2 * BLOCK].fill(7);
    disk[700 * BLOCK..][..18].copy_from_slice(b"in the second leaf");
    disk[SIZE - 512..].fill(9);
    disk
}

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples").join(name)
}

/// Each version's samples, with what opens them.
const SAMPLES: [(&str, Option<&str>); 2] = [("v1-plain", None), ("v1-sealed", Some(PASSKEY))];

fn open(dir: &Path, key: Option<&str>) -> Repository {
    Repository::open_with(dir, key.map(passkey).as_ref()).unwrap()
}

fn is_sound(repository: &Repository) -> bool {
    let never = AtomicBool::new(false);
    check(repository, &CheckOptions::default(), &CheckProgress::default(), &never)
        .unwrap()
        .is_sound()
}

#[test]
fn samples_of_every_version_open_and_are_whole() {
    for (name, key) in SAMPLES {
        let repository = open(&sample(name), key);
        let listing = wait(repository.points()).unwrap();
        assert!(listing.damaged.is_empty(), "{name}: {:?}", listing.damaged);
        let [point] = &listing.points[..] else { panic!("{name}: {:?}", listing.points) };
        assert_eq!((point.vm.name.as_str(), &point.tags[..]), ("Sample", &["sample".into()][..]));
        assert_eq!(point.nvram.as_deref(), Some(&b"nvram of the sample"[..]));
        assert!(read_disk(&open_disk(&repository, point, 0)).unwrap() == sample_disk(), "{name}");
        assert!(is_sound(&repository), "{name}");
    }
}

/// What a build writes into a repository of an older version is of that version: nothing is stored twice.
#[test]
fn samples_are_added_to() {
    for (name, key) in SAMPLES {
        let dir = TempDir::new().unwrap();
        let copy = dir.path().join("repo");
        for from in files(&sample(name)) {
            let to = copy.join(from.strip_prefix(sample(name)).unwrap());
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(from, to).unwrap();
        }
        std::fs::create_dir_all(copy.join("tmp")).unwrap();
        std::fs::write(dir.path().join("again.img"), sample_disk()).unwrap();
        let repository = open(&copy, key);
        let report = take_in(&repository, &dir.path().join("again.img")).unwrap();
        assert_eq!(
            (report.counts.written, report.counts.deduplicated),
            (0, 3 * 4096 + 512),
            "{name}"
        );
        assert!(is_sound(&repository), "{name}");
    }
}

/// A table of the document: where each field lies, by name.
struct Table(BTreeMap<String, (usize, usize)>);

impl Table {
    fn of(page: &str, heading: &str) -> Self {
        let rest = page.split_once(&format!("\n### {heading}\n")).unwrap().1;
        let rest = rest.split("\n#").next().unwrap();
        let row = |line: &str| {
            let mut cells = line.trim_matches('|').split('|').map(str::trim);
            let at = cells.next()?.parse().ok()?;
            let bytes = cells.next()?.parse().ok()?;
            let what = cells.next()?.split(':').next()?.to_owned();
            Some((what, (at, bytes)))
        };
        let fields: BTreeMap<_, _> = rest.lines().filter_map(row).collect();
        let mut places: Vec<_> = fields.values().copied().collect();
        places.sort_unstable();
        let end = places.iter().fold(0, |end, (at, bytes)| {
            assert_eq!(*at, end, "{heading} has no gap");
            at + bytes
        });
        assert!(end > 0, "{heading} has a table");
        Self(fields)
    }

    fn len(&self) -> usize {
        self.0.values().map(|(at, bytes)| at + bytes).max().unwrap()
    }

    fn bytes<'b>(&self, field: &str, from: &'b [u8]) -> &'b [u8] {
        let (at, bytes) = self.0[field];
        &from[at..at + bytes]
    }

    fn number(&self, field: &str, from: &[u8]) -> u64 {
        self.bytes(field, from).iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }
}

/// A reader of the format that goes by the document alone.
struct Reader {
    dir: PathBuf,
    page: String,
    key: Option<Vec<u8>>,
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl Reader {
    fn new(dir: PathBuf, passkey: Option<&str>) -> Self {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/docs/REPOSITORY.md");
        let page = std::fs::read_to_string(page).unwrap();
        let key = passkey.map(|passkey| data_key(&dir, passkey));
        let reader = Self { dir, page, key };
        let record = json(&reader.dir.join("repository.json"));
        if reader.key.is_some() {
            let commitment = hex::encode(reader.derive(b"commitment", b"", 32));
            assert_eq!(record["encryption"]["commitment"], commitment);
        } else {
            assert!(record["encryption"].is_null());
        }
        reader
    }

    fn table(&self, heading: &str) -> Table {
        Table::of(&self.page, heading)
    }

    fn derive(&self, what: &[u8], name: &[u8], len: usize) -> Vec<u8> {
        let prk = Prk::new_less_safe(HKDF_SHA256, self.key.as_ref().unwrap());
        let info = [b"rekindle repository v1\0", what, b"\0", name];
        let mut out = vec![0; len];
        prk.expand(&info, Length(len)).unwrap().fill(&mut out).unwrap();
        out
    }

    fn open(&self, what: &[u8], name: &[u8], bound: &[u8], stored: &[u8]) -> Vec<u8> {
        if self.key.is_none() {
            return stored.to_vec();
        }
        open_sealed(&self.derive(what, name, 32), bound, stored)
    }

    fn extra(&self) -> usize {
        if self.key.is_some() { 28 } else { 0 }
    }

    fn manifest(&self) -> Value {
        let path = files(&self.dir.join("points")).remove(0);
        let mut bytes = std::fs::read(&path).unwrap();
        if self.key.is_some() {
            let name = path.strip_prefix(&self.dir).unwrap().to_str().unwrap().to_owned();
            let sealed = json(&path)["sealed"].as_str().unwrap().to_owned();
            bytes = self.open(b"object", name.as_bytes(), b"", &STANDARD.decode(sealed).unwrap());
        }
        let text = String::from_utf8(bytes).unwrap();
        let (head, rest) = text.split_once(",\"point\":").unwrap();
        let body = rest.strip_suffix("}\n").unwrap();
        let hash = BlockHash::of(body.as_bytes());
        assert_eq!(head, format!("{{\"version\":1,\"blake3\":\"{hash}\""));
        let manifest: Value = serde_json::from_str(body).unwrap();
        let id = manifest["vm"]["id"].as_str().unwrap();
        let folder = match &self.key {
            Some(_) => hex::encode(self.derive(b"folder", id.as_bytes(), 16)),
            None => id.to_owned(),
        };
        assert!(path.parent().unwrap().ends_with(folder));
        manifest
    }

    /// A page or the root: `len` bytes at `at`, checked.
    fn page(&self, map: &str, bytes: &[u8], (at, len): (usize, usize), hash: &[u8]) -> Vec<u8> {
        let stored = &bytes[at..at + len + self.extra()];
        let page = self.open(b"map", map.as_bytes(), &(at as u64).to_le_bytes(), stored);
        assert_eq!(BlockHash::of(&page).as_bytes(), hash);
        page
    }

    fn disk(&self, manifest: &Value) -> Vec<u8> {
        let disk = &manifest["disks"][0];
        let map = disk["map"].as_str().unwrap();
        let bytes = std::fs::read(self.dir.join(format!("maps/{map}.map"))).unwrap();
        assert_eq!(bytes.len() as u64, disk["map_bytes"].as_u64().unwrap());
        assert!(bytes.starts_with(b"rekindle map v1\n"));
        let (header, entry, leaf) = (
            self.table("Map root header"),
            self.table("Map page entry"),
            self.table("Map leaf entry"),
        );
        // At 4 KiB blocks a directory covers 1 GiB, so there is one.
        let len = header.len() + entry.len();
        let at = bytes.len() - len - self.extra();
        let hash = hex::decode(disk["map_hash"].as_str().unwrap()).unwrap();
        let root = self.page(map, &bytes, (at, len), &hash);
        assert_eq!(header.bytes("magic", &root), b"RKMAPRT1");
        assert_eq!(header.number("version", &root), 1);
        let (block, size) = (header.number("block", &root), header.number("size", &root));
        assert_eq!((block, size), (BLOCK as u64, SIZE as u64));
        let below = |page: &[u8]| {
            let entries = page.chunks(entry.len()).map(|e| {
                let at = entry.number("offset", e) as usize;
                let len = entry.number("length", e) as usize;
                (len > 0).then(|| self.page(map, &bytes, (at, len), entry.bytes("hash", e)))
            });
            entries.collect::<Vec<_>>()
        };
        let mut out = vec![0; size as usize];
        let directory = below(&root[header.len()..]).remove(0).unwrap();
        for (number, page) in below(&directory).into_iter().enumerate() {
            for (slot, e) in page.unwrap_or_default().chunks(leaf.len()).enumerate() {
                let start = (number * 512 + slot) * BLOCK;
                let len = BLOCK.min(SIZE - start);
                if leaf.number("codec", e) > 0 {
                    let pack = self.pack(leaf.number("pack", e));
                    let stored = (leaf.number("offset", e), leaf.number("stored", e));
                    let codec = leaf.number("codec", e) as u8;
                    let plain = self.block(&pack, stored, codec, (len, leaf.bytes("hash", e)));
                    out[start..start + len].copy_from_slice(&plain);
                }
            }
        }
        out
    }

    fn block(
        &self,
        pack: &[u8],
        (offset, stored): (u64, u64),
        codec: u8,
        (len, hash): (usize, &[u8]),
    ) -> Vec<u8> {
        let stored = &pack[offset as usize..][..stored as usize];
        assert_eq!(self.key.is_some(), codec > 2);
        let bound = [&[codec][..], &(len as u32).to_le_bytes()].concat();
        let opened = self.open(b"block", hash, &bound, stored);
        let plain = match codec {
            1 | 3 => opened,
            2 | 4 => zstd::bulk::decompress(&opened, len).unwrap(),
            other => panic!("codec {other}"),
        };
        assert_eq!(BlockHash::of(&plain).as_bytes(), hash);
        plain
    }

    fn pack(&self, id: u64) -> Vec<u8> {
        let name = format!("{id:016x}");
        let path = self.dir.join(format!("packs/{}/{name}.pack", &name[..2]));
        std::fs::read(path).unwrap()
    }

    /// Every block of every pack by its own index; how many there are.
    fn read_packs(&self) -> usize {
        let (head, tail, entry) =
            (self.table("Pack head"), self.table("Pack tail"), self.table("Pack index entry"));
        let mut read = 0;
        for path in files(&self.dir.join("packs")) {
            let pack = std::fs::read(&path).unwrap();
            let end = &pack[pack.len() - tail.len()..];
            assert_eq!(head.bytes("magic", &pack), b"RKPACK01");
            assert_eq!(tail.bytes("magic", end), b"RKPKEND1");
            let id = head.bytes("id", &pack);
            assert_eq!(tail.bytes("id", end), id);
            let count = tail.number("entries", end) as usize;
            let len = count * entry.len() + self.extra();
            let stored = &pack[pack.len() - tail.len() - len..][..len];
            assert_eq!(BlockHash::of(stored).as_bytes(), tail.bytes("hash", end));
            let index = self.open(b"index", id, tail.bytes("entries", end), stored);
            for e in index.chunks(entry.len()) {
                let place = (entry.number("offset", e), entry.number("stored", e));
                let plain = (entry.number("plain", e) as usize, entry.bytes("hash", e));
                self.block(&pack, place, entry.number("codec", e) as u8, plain);
                read += 1;
            }
        }
        read
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn open_sealed(key: &[u8], bound: &[u8], stored: &[u8]) -> Vec<u8> {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).unwrap());
    let (nonce, rest) = stored.split_at(12);
    let nonce = Nonce::try_assume_unique_for_key(nonce).unwrap();
    let mut plain = rest.to_vec();
    key.open_in_place(nonce, Aad::from(bound), &mut plain).unwrap().to_vec()
}

/// The data key, as the section on passkeys says.
fn data_key(dir: &Path, passkey: &str) -> Vec<u8> {
    let key = json(&files(&dir.join("keys"))[0]);
    let record = json(&dir.join("repository.json"));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let number = |name: &str| key["kdf"][name].as_u64().unwrap() as u32;
    let params = Params::new(number("memory_kib"), number("passes"), number("lanes"), Some(32));
    let mut kek = [0; 32];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params.unwrap())
        .hash_password_into(
            passkey.as_bytes(),
            &hex::decode(text(&key["kdf"]["salt"])).unwrap(),
            &mut kek,
        )
        .unwrap();
    let bound = [
        "rekindle passkey v1".to_owned(),
        text(&record["id"]),
        record["block_size"].to_string(),
        text(&key["id"]),
        text(&key["label"]),
        text(&key["created_at"]),
    ];
    let wrapped = hex::decode(text(&key["wrapped"])).unwrap();
    open_sealed(&kek, bound.join("\0").as_bytes(), &wrapped)
}

#[test]
fn the_document_reads_the_samples() {
    for (name, key) in SAMPLES {
        let reader = Reader::new(sample(name), key);
        let manifest = reader.manifest();
        let point: PointManifest = serde_json::from_value(manifest.clone()).unwrap();
        assert_eq!(point.vm.name, "Sample");
        assert!(reader.disk(&manifest) == sample_disk(), "{name}");
        assert_eq!(reader.read_packs(), 4, "{name}");
    }
}
