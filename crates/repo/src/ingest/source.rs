use std::collections::HashSet;
use std::path::Path;

use bytes::Bytes;
use rekindle_block::BlockHash;
use rekindle_image::{Checksums, Folder, Image, ImageError, SourceFile, Vmx};

use super::options::IngestOptions;
use crate::manifest::{MAX_DISKS, MAX_NVRAM_BYTES};
use crate::{DiskManifest, MapId, RepoError, VmId, VmIdentity};

const MAX_VMX_BYTES: u64 = 1 << 20;
const MAX_OVF_BYTES: u64 = 4 << 20;

/// A VM's files, opened and checked before anything is written.
pub(crate) struct Source {
    pub(crate) vm: VmIdentity,
    pub(crate) vmx: String,
    pub(crate) nvram: Option<Bytes>,
    pub(crate) disks: Vec<SourceDisk>,
    /// Of an OVF package with a manifest: the files of its disks are yet to be compared.
    pub(super) package: Option<(Checksums, Vec<SourceFile>)>,
}

/// An open disk and its manifest so far.
pub(crate) struct SourceDisk {
    pub(crate) image: DiskSource,
    pub(crate) manifest: DiskManifest,
}

/// Where a disk's bytes come from.
pub(crate) enum DiskSource {
    Open(Image),
    /// A host sends it when its turn comes.
    Later(Opener),
}

pub(super) type Opener = Box<dyn FnOnce() -> Result<Image, ImageError> + Send>;

impl DiskSource {
    /// The image, of `size` bytes.
    pub(crate) fn open(self, size: u64) -> Result<Image, RepoError> {
        let image = match self {
            Self::Open(image) => image,
            Self::Later(open) => open().map_err(refuse)?,
        };
        match image.size() == size {
            true => Ok(image),
            false => Err(RepoError::refused(format!(
                "a disk of {} bytes came, and {size} were told",
                image.size()
            ))),
        }
    }

    /// Bytes in its files, as far as there are any.
    pub(crate) fn file_bytes(&self) -> u64 {
        match self {
            Self::Open(image) => image.file_bytes(),
            Self::Later(_) => 0,
        }
    }
}

/// A source that cannot be ingested as it is.
pub(crate) fn refuse(error: ImageError) -> RepoError {
    match error {
        ImageError::Unavailable { source, .. }
            if source.get_ref().is_some_and(|e| e.is::<RepoError>()) =>
        {
            told(source)
        }
        ImageError::Unavailable { .. } => {
            RepoError::Unavailable { what: "read the source".into(), source: error.into() }
        }
        ImageError::NotFound { .. } => {
            RepoError::refused(format!("the source lacks a file: {error}"))
        }
        ImageError::Corrupt { .. }
        | ImageError::Unsupported { .. }
        | ImageError::Escapes { .. } => RepoError::refused(error.to_string()),
    }
}

/// What a store said on whose behalf a file was read.
fn told(error: std::io::Error) -> RepoError {
    let kind = error.kind();
    match error.into_inner().map(|inner| inner.downcast::<RepoError>()) {
        Some(Ok(error)) => *error,
        _ => RepoError::io("read the source", kind.into()),
    }
}

impl Source {
    /// Opens a `.vmx`, an `.ovf`, an `.ova` or a bare image. The directory that the file really lies in is the one that nothing may
    /// leave.
    pub(super) fn open(path: &Path, options: &IngestOptions) -> Result<Self, RepoError> {
        let shown = path.display();
        let path = path.canonicalize().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => RepoError::NotFound { what: shown.to_string() },
            _ => RepoError::io(format!("open {shown}"), error),
        })?;
        let (Some(root), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(RepoError::refused(format!("{shown} is no file")));
        };
        let folder = Folder::open(root).map_err(refuse)?;
        Self::open_in(&folder, Path::new(name), options)
    }

    /// The same for the file `name` of `folder`, which nothing may leave.
    pub(crate) fn open_in(
        folder: &Folder,
        name: &Path,
        options: &IngestOptions,
    ) -> Result<Self, RepoError> {
        let end = name.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        match end.as_str() {
            "vmx" => Self::from_vmx(folder, name, options),
            "ovf" => Self::from_ovf(folder, name, options),
            "ova" => Self::from_ova(folder, name, options),
            _ => Self::from_image(folder, name, options),
        }
    }

    fn from_vmx(folder: &Folder, name: &Path, options: &IngestOptions) -> Result<Self, RepoError> {
        let bytes = folder.open_file(name).and_then(|file| file.read_all(MAX_VMX_BYTES));
        let vmx = Vmx::parse(&bytes.map_err(refuse)?)
            .map_err(|error| RepoError::refused(error.to_string()))?;
        Self::from_configuration(folder, vmx, name, options)
    }

    /// What the descriptor's package has a checksum of is compared: what is small at once, disks while they are ingested.
    fn from_ovf(folder: &Folder, name: &Path, options: &IngestOptions) -> Result<Self, RepoError> {
        let checksums = Checksums::of_package(folder, name).map_err(refuse)?;
        let file = folder.open_file(name).map_err(refuse)?;
        let check =
            |file: &SourceFile| checksums.as_ref().map_or(Ok(true), |c| c.check(file, || true));
        let bytes = file.read_all(MAX_OVF_BYTES).and_then(|bytes| check(&file).map(|_| bytes));
        let mut vmx = Vmx::from_ovf(&bytes.map_err(refuse)?)
            .map_err(|error| RepoError::refused(error.to_string()))?;
        if let Some(nvram) = open_nvram(folder, &vmx).map_err(refuse)?
            && nvram.len() <= MAX_NVRAM_BYTES
        {
            check(&nvram).map_err(refuse)?;
        }
        if vmx.get("firmware").is_none()
            && let Some(first) = vmx.disks().first()
        {
            let image = Image::open(folder, Path::new(&first.file_name)).map_err(refuse)?;
            let efi = boots_by_efi(&image).map_err(refuse)?;
            vmx.set("firmware", if efi { "efi" } else { "bios" });
        }
        let disks = vmx.disks();
        let files = disks.iter().map(|disk| folder.open_file(Path::new(&disk.file_name)));
        let files: Vec<_> = files.collect::<Result<_, _>>().map_err(refuse)?;
        let source = Self::from_configuration(folder, vmx, name, options)?;
        Ok(Self { package: checksums.map(|checksums| (checksums, files)), ..source })
    }

    /// An OVA is read where it lies: its disks are ranges of the one file.
    fn from_ova(folder: &Folder, name: &Path, options: &IngestOptions) -> Result<Self, RepoError> {
        let archive = folder.open_archive(name).map_err(refuse)?;
        let is_ovf = |name: &&Path| name.extension().is_some_and(|e| e.eq_ignore_ascii_case("ovf"));
        let mut found = archive.members().filter(is_ovf);
        let (Some(ovf), None) = (found.next(), found.next()) else {
            return Err(RepoError::refused("the .ova does not hold exactly one .ovf"));
        };
        Self::from_ovf(&archive, ovf, options)
    }

    /// A VM of the disks that `vmx`, which the file `name` says, attaches.
    fn from_configuration(
        folder: &Folder,
        vmx: Vmx,
        name: &Path,
        options: &IngestOptions,
    ) -> Result<Self, RepoError> {
        let attached = vmx.disks();
        if attached.is_empty() {
            return Err(RepoError::refused("the VM has no hard disk"));
        }
        if attached.len() > MAX_DISKS {
            return Err(RepoError::refused(format!("the VM has {} disks", attached.len())));
        }
        let mut names = HashSet::new();
        let mut disks = Vec::new();
        for disk in attached {
            let path = Path::new(&disk.file_name);
            let image = Image::open(folder, path).map_err(refuse)?;
            let file_name = unique_name(path, &mut names);
            disks.push(SourceDisk::new(image, disk.key, file_name, disk.adapter)?);
        }
        let stem = name.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let vm = identity(&vmx, options.name.clone(), stem);
        Ok(Self { vm, nvram: read_nvram(folder, &vmx)?, vmx: vmx.to_text(), disks, package: None })
    }

    fn from_image(
        folder: &Folder,
        name: &Path,
        options: &IngestOptions,
    ) -> Result<Self, RepoError> {
        let image = Image::open(folder, name).map_err(refuse)?;
        let stem = name.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let vm_name = options.name.clone().unwrap_or_else(|| stem.clone());
        let adapter = options.adapter.clone().unwrap_or_else(|| "lsilogic".into());
        let file_name = format!("{}.vmdk", slug(&stem, 100));
        let efi = boots_by_efi(&image).map_err(refuse)?;
        let (vmx, key) = minimal_vmx(&vm_name, &file_name, &adapter, efi)?;
        let vm = identity(&vmx, Some(vm_name), stem);
        let disks = vec![SourceDisk::new(image, key, file_name, adapter)?];
        Ok(Self { vm, vmx: vmx.to_text(), nvram: None, disks, package: None })
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.disks.iter().map(|disk| disk.manifest.size_bytes).sum()
    }
}

impl SourceDisk {
    fn new(
        image: Image,
        key: String,
        file_name: String,
        adapter: String,
    ) -> Result<Self, RepoError> {
        let manifest = DiskManifest {
            key,
            file_name,
            adapter,
            source_format: image.format().name().into(),
            size_bytes: image.size(),
            stored_bytes: 0,
            map: MapId::random()?,
            map_bytes: 0,
            map_hash: BlockHash::from_bytes([0; 32]),
        };
        Ok(Self { image: DiskSource::Open(image), manifest })
    }
}

/// The file's base name, told apart from those of other disks of the VM.
pub(super) fn unique_name(path: &Path, taken: &mut HashSet<String>) -> String {
    let base = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut name = base.clone();
    let mut number = 1;
    while !taken.insert(name.to_lowercase()) {
        number += 1;
        name = format!("{number}-{base}");
    }
    name
}

pub(super) fn identity(vmx: &Vmx, name: Option<String>, stem: String) -> VmIdentity {
    let shown = vmx.get("displayName").filter(|name| !name.trim().is_empty());
    let name = name.unwrap_or_else(|| shown.map_or(stem, str::to_owned));
    let name: String = name.chars().filter(|c| !c.is_control()).take(200).collect();
    let uuid_bios = vmx.get("uuid.bios").filter(|uuid| uuid.len() <= 64).map(str::to_owned);
    let digits: Option<String> = uuid_bios
        .as_ref()
        .map(|uuid| uuid.chars().filter(char::is_ascii_hexdigit).collect::<String>())
        .filter(|digits| digits.len() == 32 && digits.bytes().any(|digit| digit != b'0'));
    let id = digits.map(|digits| digits.to_ascii_lowercase()).unwrap_or_else(|| {
        let hash = BlockHash::of(name.as_bytes()).to_string();
        format!("{}-{}", slug(&name, 60), &hash[..8])
    });
    // Both forms are made of what an id may have; were they not, the VM would get a fixed one.
    let id = id.parse::<VmId>().unwrap_or_else(|_| VmId::unnamed());
    VmIdentity { id, name, uuid_bios }
}

/// `name` in lower case letters, digits and single dashes.
fn slug(name: &str, max: usize) -> String {
    let mut out = String::new();
    for c in name.chars().map(|c| c.to_ascii_lowercase()) {
        if c.is_ascii_alphanumeric() {
            out.push(c);
        } else if !out.is_empty() && !out.ends_with('-') {
            out.push('-');
        }
    }
    out.truncate(max);
    let out = out.trim_end_matches('-');
    if out.is_empty() { "disk".into() } else { out.into() }
}

fn read_nvram(folder: &Folder, vmx: &Vmx) -> Result<Option<Bytes>, RepoError> {
    let file = open_nvram(folder, vmx).map_err(refuse)?;
    file.map(|file| file.read_all(MAX_NVRAM_BYTES).map(Bytes::from)).transpose().map_err(refuse)
}

/// The nvram file that the .vmx names. A VM starts with a fresh one where it is missing.
fn open_nvram(folder: &Folder, vmx: &Vmx) -> Result<Option<SourceFile>, ImageError> {
    let Some(name) = vmx.get("nvram").filter(|name| !name.is_empty()) else { return Ok(None) };
    match folder.open_file(Path::new(name)) {
        Err(ImageError::NotFound { .. }) => Ok(None),
        file => file.map(Some),
    }
}

/// A disk with a GPT and no boot code in its first sector does not start by BIOS.
fn boots_by_efi(image: &Image) -> Result<bool, ImageError> {
    let mut head = [0; 1024];
    let len = image.size().min(1024) as usize;
    image.read_at(0, &mut head[..len])?;
    Ok(head[512..520] == *b"EFI PART" && head[..440].iter().all(|byte| *byte == 0))
}

/// A configuration for a disk that came alone, and where the disk is attached in it.
fn minimal_vmx(
    name: &str,
    file_name: &str,
    adapter: &str,
    efi: bool,
) -> Result<(Vmx, String), RepoError> {
    let (controller, device) = match adapter {
        "pvscsi" | "lsilogic" | "lsisas1068" | "buslogic" => ("scsi0", "scsi-hardDisk"),
        "ide" => ("ide0", "disk"),
        "ahci" => ("sata0", "disk"),
        "nvme" => ("nvme0", "disk"),
        other => return Err(RepoError::refused(format!("there is no disk controller {other:?}"))),
    };
    let key = format!("{controller}:0");
    let mut vmx = Vmx::blank(name);
    for (key, value) in [
        ("firmware", if efi { "efi" } else { "bios" }),
        // Present, and not connected until somebody says to which network.
        ("ethernet0.present", "TRUE"),
        ("ethernet0.virtualDev", "e1000"),
        ("ethernet0.addressType", "generated"),
        ("ethernet0.networkName", "VM Network"),
        ("ethernet0.startConnected", "FALSE"),
    ] {
        vmx.set(key, value);
    }
    vmx.set(&format!("{controller}.present"), "TRUE");
    if controller == "scsi0" {
        vmx.set("scsi0.virtualDev", adapter);
    }
    vmx.set(&format!("{key}.present"), "TRUE");
    vmx.set(&format!("{key}.deviceType"), device);
    vmx.set(&format!("{key}.fileName"), file_name);
    Ok((vmx, key))
}
