//! Names of the server's objects.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A managed object reference. Its value is opaque: an ESXi's datastore has slashes and colons in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MoRef {
    pub(crate) kind: String,
    pub(crate) value: String,
}

impl MoRef {
    pub(crate) fn new(kind: impl Into<String>, value: impl Into<String>) -> Self {
        Self { kind: kind.into(), value: value.into() }
    }
}

impl fmt::Display for MoRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.value)
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The reference's value, as the server gave it.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            pub(crate) fn moref(&self) -> MoRef {
                MoRef::new($kind, &self.0)
            }
        }

        impl From<MoRef> for $name {
            fn from(moref: MoRef) -> Self {
                Self(moref.value)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id! {
    /// A host of one server. It means nothing to another server, and may be kept in a journal.
    HostId, "HostSystem"
}
id! {
    /// A datastore of one server. A datastore that is removed and made again has another.
    DatastoreId, "Datastore"
}
id! {
    /// A snapshot of a VM. It means nothing once the snapshot is removed.
    SnapshotId, "VirtualMachineSnapshot"
}
id! {
    /// A registered VM of one server. It stays through a migration; registered anew, a VM has another.
    VmId, "VirtualMachine"
}
