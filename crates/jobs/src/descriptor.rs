use std::fmt::Write;

/// Bytes of a sector, the unit of a descriptor.
pub(crate) const SECTOR: u64 = 512;

/// The text of a VMDK descriptor with one flat extent.
///
/// `createType="vmfs"` is what ESXi wants; QEMU and Workstation read it too, so the export and the
/// migrated copy use the same. Only the extent's file name is given, never a path (VMDK
/// specification, "The Descriptor File"; ESXi takes descriptors without `ddb` lines, but with them
/// it need not guess the adapter).
pub(crate) struct Descriptor<'a> {
    /// The extent's file name.
    pub(crate) extent: &'a str,
    /// Bytes of the disk: a multiple of [`SECTOR`].
    pub(crate) size: u64,
    /// `lsilogic`, `buslogic`, `ide` or `pvscsi`.
    pub(crate) adapter: &'a str,
    /// Sixteen bytes that tell this disk's content from another's; the last four are the CID.
    pub(crate) content: [u8; 16],
}

impl Descriptor<'_> {
    pub(crate) fn text(&self) -> String {
        let sectors = self.size / SECTOR;
        let (heads, per_track) = geometry(self.adapter);
        let cylinders = (sectors / (heads * per_track)).clamp(1, 16_383_000);
        let content = hex::encode(self.content);
        let cid = &content[24..];
        let mut text = String::new();
        let _ = write!(
            text,
            "# Disk DescriptorFile\n\
             version=1\n\
             encoding=\"UTF-8\"\n\
             CID={cid}\n\
             parentCID=ffffffff\n\
             isNativeSnapshot=\"no\"\n\
             createType=\"vmfs\"\n\
             \n\
             # Extent description\n\
             RW {sectors} VMFS \"{extent}\"\n\
             \n\
             # The Disk Data Base\n\
             #DDB\n\
             \n\
             ddb.adapterType = \"{adapter}\"\n\
             ddb.geometry.cylinders = \"{cylinders}\"\n\
             ddb.geometry.heads = \"{heads}\"\n\
             ddb.geometry.sectors = \"{per_track}\"\n\
             ddb.longContentID = \"{content}\"\n\
             ddb.thinProvisioned = \"1\"\n\
             ddb.virtualHWVersion = \"8\"\n",
            extent = self.extent,
            adapter = self.adapter,
        );
        text
    }
}

pub(crate) fn geometry(adapter: &str) -> (u64, u64) {
    if adapter == "ide" { (16, 63) } else { (255, 63) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_says_what_esxi_wants() {
        let text = Descriptor {
            extent: "web-flat.vmdk",
            size: 10 << 30,
            adapter: "pvscsi",
            content: *b"0123456789abcdef",
        }
        .text();
        for line in [
            "createType=\"vmfs\"",
            "RW 20971520 VMFS \"web-flat.vmdk\"",
            "CID=63646566",
            "parentCID=ffffffff",
            "ddb.adapterType = \"pvscsi\"",
            "ddb.geometry.cylinders = \"1305\"",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in:\n{text}");
        }
        assert!(!text.contains("changeTrackPath"));
    }
}
