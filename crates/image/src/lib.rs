//! Reads what people have: .vmx with its disks, VMDK, qcow2, raw.
