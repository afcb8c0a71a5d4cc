use std::collections::HashMap;
use std::path::Path;

use ring::digest;

use crate::file::SourceFile;
use crate::folder::Folder;
use crate::{ImageError, tar};

const MAX_MANIFEST_BYTES: u64 = 1 << 20;
/// More files than an OVF descriptor can name.
const MAX_FILES: usize = 4096;
const READ_BYTES: u64 = 1 << 20;

/// The checksums of an OVF package's files, as its manifest (`.mf`, DSP0243 section 8.3) has them. A certificate (`.cert`)
/// is not looked at: they tell damage, not who made the package.
#[derive(Debug)]
pub struct Checksums {
    files: HashMap<String, Digest>,
}

#[derive(Debug)]
struct Digest {
    algorithm: &'static digest::Algorithm,
    name: &'static str,
    value: Vec<u8>,
}

impl Checksums {
    /// Those of the package whose descriptor is `ovf` of `folder`; `None` if it has no manifest.
    pub fn of_package(folder: &Folder, ovf: &Path) -> Result<Option<Self>, ImageError> {
        let file = match folder.open_file(&ovf.with_extension("mf")) {
            Err(ImageError::NotFound { .. }) => return Ok(None),
            file => file?,
        };
        let bytes = file.read_all(MAX_MANIFEST_BYTES)?;
        Self::parse(&file, &String::from_utf8_lossy(&bytes)).map(Some)
    }

    /// Lines of `SHA256(disk.vmdk)= 0123...`, with spaces or without.
    fn parse(file: &SourceFile, text: &str) -> Result<Self, ImageError> {
        let mut files = HashMap::new();
        let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
        for line in lines.filter(|line| !line.is_empty()) {
            let shown: String = line.chars().take(100).collect();
            let bad = || file.corrupt(format!("the line {shown:?}"));
            let (head, value) = line.rsplit_once('=').ok_or_else(bad)?;
            let (kind, name) = head.split_once('(').ok_or_else(bad)?;
            let name = name.trim_end().strip_suffix(')').ok_or_else(bad)?;
            let (algorithm, label) = algorithm(kind.trim()).ok_or_else(|| {
                ImageError::unsupported(file.name(), format!("checksums of kind {shown:?}"))
            })?;
            let value = from_hex(value.trim()).filter(|v| v.len() == algorithm.output_len());
            let digest = Digest { algorithm, name: label, value: value.ok_or_else(bad)? };
            let again = files.insert(plain(name), digest).is_some();
            if again || files.len() > MAX_FILES {
                return Err(file.corrupt(format!("{name:?} is there twice, or is one too many")));
            }
        }
        Ok(Self { files })
    }

    /// Reads all of `file` and compares it; one that the manifest does not list passes. `false` if `goes_on`, which is
    /// asked every MiB, ended it. Blocks, and holds 1 MiB whatever the file's size.
    pub fn check(&self, file: &SourceFile, goes_on: impl Fn() -> bool) -> Result<bool, ImageError> {
        let Some(want) = self.files.get(&plain(file.name())) else { return Ok(true) };
        let mut context = digest::Context::new(want.algorithm);
        let mut buf = vec![0; file.len().min(READ_BYTES) as usize];
        let mut at = 0;
        while at < file.len() {
            if !goes_on() {
                return Ok(false);
            }
            let part = (file.len() - at).min(READ_BYTES) as usize;
            file.read_exact_at(at, &mut buf[..part])?;
            context.update(&buf[..part]);
            at += part as u64;
        }
        match context.finish().as_ref() == want.value {
            true => Ok(true),
            false => {
                let detail = format!("its {} is not the one in the package's manifest", want.name);
                Err(file.corrupt(detail))
            }
        }
    }
}

/// A name as other names are compared with it.
fn plain(name: &str) -> String {
    tar::plain(Path::new(name)).display().to_string()
}

/// By the names of the standard, and those that OpenSSL 3 prints.
fn algorithm(kind: &str) -> Option<(&'static digest::Algorithm, &'static str)> {
    match kind.to_ascii_uppercase().as_str() {
        "SHA1" => Some((&digest::SHA1_FOR_LEGACY_USE_ONLY, "SHA-1")),
        "SHA256" | "SHA2-256" => Some((&digest::SHA256, "SHA-256")),
        "SHA384" | "SHA2-384" => Some((&digest::SHA384, "SHA-384")),
        "SHA512" | "SHA2-512" => Some((&digest::SHA512, "SHA-512")),
        _ => None,
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| Some(c.to_digit(16)? as u8)).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}
