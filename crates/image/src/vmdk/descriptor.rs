use crate::ImageError;
use crate::image::MAX_IMAGE_BYTES;

/// What a descriptor starts with.
pub(crate) const DESCRIPTOR_MARK: &str = "# Disk DescriptorFile";
/// The longest descriptor that is read.
pub(super) const MAX_BYTES: u64 = 1 << 20;
/// The most extents: each is an open file. 1 TiB in extents of 2 GiB.
pub(super) const MAX_EXTENTS: usize = 512;
const SECTOR: u64 = 512;
const NO_PARENT: u32 = u32::MAX;

/// The text that says what a VMDK consists of.
pub(super) struct Descriptor {
    file: String,
    encrypted: bool,
    parent_cid: Option<String>,
    parent_hint: Option<String>,
    /// Changes with the disk's content.
    pub(super) cid: Option<u32>,
    pub(super) extents: Vec<ExtentLine>,
}

/// The disk that another is the delta of.
pub(super) struct Parent<'a> {
    pub(super) cid: u32,
    pub(super) hint: &'a str,
}

/// `RW 4192256 FLAT "disk-f001.vmdk" 0`.
pub(super) struct ExtentLine {
    pub(super) bytes: u64,
    pub(super) kind: ExtentKind,
}

pub(super) enum ExtentKind {
    Flat { file: String, offset: u64 },
    Sparse { file: String },
    VmfsSparse { file: String },
    SeSparse { file: String },
    Zero,
}

impl Descriptor {
    /// Reads the text of the file named `file`. Zeros at its end are padding.
    pub(super) fn parse(file: &str, bytes: &[u8]) -> Result<Self, ImageError> {
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        let text = String::from_utf8_lossy(text);
        let mut descriptor = Self {
            file: file.to_owned(),
            encrypted: false,
            parent_cid: None,
            parent_hint: None,
            cid: None,
            extents: Vec::new(),
        };
        let mut total = 0_u64;
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(extent) = descriptor.extent(line)? {
                total = total.saturating_add(extent.bytes);
                descriptor.extents.push(extent);
            } else if let Some((key, value)) = line.split_once('=') {
                descriptor.setting(key.trim(), value.trim().trim_matches('"'));
            }
        }
        if descriptor.extents.is_empty() {
            return Err(descriptor.corrupt("it names no extent"));
        }
        if descriptor.extents.len() > MAX_EXTENTS {
            let what = format!("it has more than {MAX_EXTENTS} extents");
            return Err(ImageError::unsupported(file, what));
        }
        if total > MAX_IMAGE_BYTES {
            return Err(ImageError::unsupported(file, format!("a disk of {total} bytes")));
        }
        Ok(descriptor)
    }

    /// The disk below; `None` for a disk of its own. An encrypted one is refused.
    pub(super) fn parent(&self) -> Result<Option<Parent<'_>>, ImageError> {
        if self.encrypted {
            return Err(ImageError::unsupported(&self.file, "it is encrypted"));
        }
        let Some(text) = &self.parent_cid else { return Ok(None) };
        let cid = to_cid(text).ok_or_else(|| self.corrupt("a parentCID that is no number"))?;
        if cid == NO_PARENT {
            return Ok(None);
        }
        let hint = self.parent_hint.as_deref().filter(|hint| !hint.is_empty());
        let hint = hint.ok_or_else(|| self.corrupt("it is a delta and names no parent"))?;
        Ok(Some(Parent { cid, hint }))
    }

    fn setting(&mut self, key: &str, value: &str) {
        match key.to_ascii_lowercase().as_str() {
            "cid" => self.cid = to_cid(value),
            "parentfilenamehint" => self.parent_hint = Some(value.to_owned()),
            "parentcid" => self.parent_cid = Some(value.to_owned()),
            "encryptionkeys" | "datafilekey" => self.encrypted = true,
            _ => {}
        }
    }

    fn corrupt(&self, detail: impl Into<String>) -> ImageError {
        ImageError::corrupt(&self.file, detail)
    }

    /// `None` for a line that is no extent.
    fn extent(&self, line: &str) -> Result<Option<ExtentLine>, ImageError> {
        let (head, tail) = line.split_once('"').unwrap_or((line, ""));
        let words: Vec<_> = head.split_whitespace().take(4).collect();
        let [access, sectors, kind] = words[..] else { return Ok(None) };
        if !["RW", "RDONLY", "NOACCESS"].contains(&access) {
            return Ok(None);
        }
        let bad =
            || self.corrupt(format!("extent {:?}", line.chars().take(80).collect::<String>()));
        let bytes = to_bytes(sectors).filter(|bytes| *bytes > 0).ok_or_else(bad)?;
        let (name, offset) = tail.split_once('"').unwrap_or(("", ""));
        let file = name.to_owned();
        let kind = match kind {
            "ZERO" => ExtentKind::Zero,
            _ if name.is_empty() => return Err(bad()),
            "FLAT" | "VMFS" => {
                let first = offset.split_whitespace().next().unwrap_or("0");
                ExtentKind::Flat { file, offset: to_bytes(first).ok_or_else(bad)? }
            }
            "SPARSE" => ExtentKind::Sparse { file },
            "VMFSSPARSE" => ExtentKind::VmfsSparse { file },
            "SESPARSE" => ExtentKind::SeSparse { file },
            other => {
                let kind: String = other.chars().take(32).collect();
                let what = format!("it has an extent of kind {kind}");
                return Err(ImageError::unsupported(&self.file, what));
            }
        };
        Ok(Some(ExtentLine { bytes, kind }))
    }
}

/// Sectors as text to bytes, bounded by the largest disk.
fn to_bytes(sectors: &str) -> Option<u64> {
    let bytes = sectors.parse::<u64>().ok()?.checked_mul(SECTOR)?;
    (bytes <= MAX_IMAGE_BYTES).then_some(bytes)
}

/// A content id, in hexadecimal.
fn to_cid(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 16).ok()
}
