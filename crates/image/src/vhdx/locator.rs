use super::region::guid;
use crate::ImageError;
use crate::chain::ParentNames;
use crate::endian::{le16, le32, utf16_le};
use crate::file::SourceFile;

/// That the parent is a VHDX (section 2.6.2.6.3).
const KIND: &str = "b04aefb7-d19e-4a81-b789-25b8e9445913";
const HEADER_BYTES: usize = 20;
/// There are five kinds.
const MAX_ENTRIES: u16 = 64;

/// What a differencing disk says of its parent (section 2.6.2.6).
pub(super) struct Locator {
    ids: Vec<String>,
    pub(super) names: ParentNames,
}

impl Locator {
    /// ```text
    /// 0 kind 16 | 18 entries 2 | 20 entry: key offset 4, value offset 4, key length 2, value length 2
    /// ```
    pub(super) fn parse(file: &SourceFile, bytes: &[u8]) -> Result<Self, ImageError> {
        let count = le16(bytes, 18);
        let bad = || file.corrupt("what it says of its parent is damaged".into());
        if bytes.len() < HEADER_BYTES || count > MAX_ENTRIES {
            return Err(bad());
        }
        if guid(bytes) != KIND {
            return Err(ImageError::unsupported(file.name(), "its parent is no VHDX"));
        }
        let text = |at: u32, len: u16| {
            let text = bytes.get(at as usize..).and_then(|rest| rest.get(..usize::from(len)));
            text.map(utf16_le).ok_or_else(bad)
        };
        let mut locator = Self { ids: Vec::new(), names: ParentNames::default() };
        let entries = bytes[HEADER_BYTES..].as_chunks::<12>().0;
        let entries = entries.get(..usize::from(count)).ok_or_else(bad)?;
        for entry in entries {
            let value = text(le32(entry, 4), le16(entry, 10))?;
            match text(le32(entry, 0), le16(entry, 8))?.as_str() {
                "parent_linkage" | "parent_linkage2" => {
                    locator.ids.push(value.trim_matches(['{', '}']).to_ascii_lowercase());
                }
                "relative_path" | "volume_path" | "absolute_win32_path" => locator.names.add(value),
                _ => {}
            }
        }
        Ok(locator)
    }

    /// Whether the parent is the disk whose content has the id `data_id`.
    pub(super) fn is_parent(&self, data_id: &str) -> bool {
        self.ids.iter().any(|id| id == data_id)
    }
}
