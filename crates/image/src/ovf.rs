//! OVF descriptors (DMTF DSP0243, versions 1 and 2) as .vmx configurations.

mod checksums;
mod hardware;
mod xml;

use std::collections::HashMap;

use crate::Vmx;
pub use checksums::Checksums;
use hardware::Hardware;
use xml::Element;

/// The longest descriptor that is read.
const MAX_BYTES: usize = 4 << 20;
/// The longest name of a file, so that all of them together fit into a .vmx.
const MAX_NAME_BYTES: usize = 512;

/// What is wrong with an OVF descriptor: fix the file, or export the VM anew.
#[derive(Debug, thiserror::Error)]
#[error("the OVF descriptor cannot be used: {problem}")]
pub struct OvfError {
    problem: String,
}

impl OvfError {
    fn new(problem: impl Into<String>) -> Self {
        Self { problem: problem.into() }
    }
}

impl Vmx {
    /// The configuration of the one VM that an OVF descriptor describes: its processors, memory, controllers,
    /// disks, networks, firmware and guest. Disks have the names of their files, untrusted and relative to the
    /// descriptor. Settings of a hypervisor (`vmw:ExtraConfig`) are left out. `firmware` is unset where the
    /// descriptor does not say.
    pub fn from_ovf(bytes: &[u8]) -> Result<Self, OvfError> {
        if bytes.len() > MAX_BYTES {
            return Err(OvfError::new(format!("{} bytes are more than {MAX_BYTES}", bytes.len())));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| OvfError::new("it is no UTF-8"))?;
        let document = Element::parse(text.trim_start_matches('\u{feff}'))?;
        let envelope = document.child("Envelope");
        let envelope = envelope.ok_or_else(|| OvfError::new("it has no Envelope"))?;
        let mut systems = envelope.all("VirtualSystem");
        let (Some(system), None, None) =
            (systems.next(), systems.next(), envelope.child("VirtualSystemCollection"))
        else {
            return Err(OvfError::new("it does not describe exactly one VM"));
        };
        let files = Files::read(envelope)?;
        let name = system.value("Name").or(system.attribute("id")).unwrap_or_default();
        let mut vmx = Self::blank(&short(name));
        vmx.set("guestOS", guest_os(system));
        let hardware = system.child("VirtualHardwareSection");
        let hardware = hardware.ok_or_else(|| OvfError::new("it describes no hardware"))?;
        Hardware::new(&mut vmx, &files).read(hardware)?;
        Ok(vmx)
    }
}

/// The files that disks and settings refer to.
struct Files<'a> {
    /// By their ids.
    files: HashMap<&'a str, &'a Element>,
    disks: HashMap<&'a str, &'a Element>,
}

impl<'a> Files<'a> {
    fn read(envelope: &'a Element) -> Result<Self, OvfError> {
        let by = |section: &str, name: &'static str, id: &'static str| -> HashMap<_, _> {
            let items = envelope.child(section).into_iter().flat_map(move |s| s.all(name));
            items.filter_map(|item| Some((item.attribute(id)?, item))).collect()
        };
        let files = by("References", "File", "id");
        Ok(Self { files, disks: by("DiskSection", "Disk", "diskId") })
    }

    /// The name of the file that `ovf:/disk/ID` or `ovf:/file/ID` means.
    fn resolve(&self, reference: &str) -> Result<String, OvfError> {
        let path = reference.trim().trim_start_matches("ovf:").trim_start_matches('/');
        let id = match path.split_once('/') {
            Some(("disk", id)) => self.file_of_disk(id)?,
            Some(("file", id)) => id,
            _ => return Err(OvfError::new(format!("it refers to {:?}", short(reference)))),
        };
        let file = self.files.get(id);
        let file = file.ok_or_else(|| OvfError::new(format!("it has no file {:?}", short(id))))?;
        let packed = file.attribute("compression").is_some_and(|kind| kind != "identity");
        if packed || file.attribute("chunkSize").is_some() {
            let name = short(file.attribute("href").unwrap_or(id));
            return Err(OvfError::new(format!("{name:?} is compressed or in chunks; unpack it")));
        }
        let href = file.attribute("href").ok_or_else(|| OvfError::new("a file has no href"))?;
        match href.len() <= MAX_NAME_BYTES {
            true => Ok(percent_decoded(href)),
            false => Err(OvfError::new(format!("the name {:?} is too long", short(href)))),
        }
    }

    fn file_of_disk(&self, id: &str) -> Result<&'a str, OvfError> {
        let disk = self.disks.get(id);
        let disk = disk.ok_or_else(|| OvfError::new(format!("it has no disk {:?}", short(id))))?;
        if disk.attribute("parentRef").is_some() {
            return Err(OvfError::new(format!("its disk {:?} has a parent", short(id))));
        }
        let file = disk.attribute("fileRef");
        file.ok_or_else(|| {
            OvfError::new(format!("its disk {:?} is empty, without file", short(id)))
        })
    }
}

/// VMware's name of the guest as a .vmx has it: `windows9Server64Guest` is `windows9srv-64`.
fn guest_os(system: &Element) -> String {
    let section = system.child("OperatingSystemSection");
    let Some(kind) = section.and_then(|section| section.attribute("osType")) else {
        return "other-64".into();
    };
    let kind = kind.replace("Guest", "");
    let (stem, bits) = match kind.strip_suffix("64") {
        Some(stem) => (stem.trim_end_matches('_'), "-64"),
        None => (kind.as_str(), ""),
    };
    let stem = stem.to_ascii_lowercase().replace("server", "srv");
    if stem.is_empty() || stem.len() > 64 || !stem.chars().all(|c| c.is_ascii_alphanumeric()) {
        return "other-64".into();
    }
    format!("{stem}{bits}")
}

/// An href is a URI reference: `%20` is a space.
fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        let digits = tail.get(..2).filter(|_| *byte == b'%');
        let digits = digits.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let code = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(code) => {
                out.push(code);
                rest = &tail[2..];
            }
            None => {
                out.push(*byte);
                rest = tail;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

fn short(text: &str) -> String {
    text.chars().take(200).collect()
}
