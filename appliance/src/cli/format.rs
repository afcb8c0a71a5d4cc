use clap::ValueEnum;

/// What the disks of a VM are in the directory that it is migrated to.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Format {
    /// A descriptor and a flat extent each, as ESXi has them.
    Flat,
    /// A VMDK each that grows with its content (monolithicSparse), of less than 2 TiB.
    Sparse,
    /// QEMU's format.
    Qcow2,
    /// The disk's bytes.
    Raw,
}

impl Format {
    /// As the API names it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Flat => "flat",
            Self::Sparse => "sparse",
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}
