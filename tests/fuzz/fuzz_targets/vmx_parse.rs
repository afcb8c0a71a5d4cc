//! A .vmx or an OVF descriptor of any bytes; a .vmx that parses, or was made, is a fixed point of writing and
//! reading it again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rekindle_image::Vmx;

fuzz_target!(|data: &[u8]| {
    if let Ok(made) = Vmx::from_ovf(data) {
        let again = Vmx::parse(&made.to_bytes()).expect("what was written is read");
        assert_eq!(again.disks(), made.disks());
    }
    let Ok(mut vmx) = Vmx::parse(data) else { return };
    let again = Vmx::parse(&vmx.to_bytes()).expect("what was written is read");
    assert!(again.entries().eq(vmx.entries()));
    assert_eq!(again.disks(), vmx.disks());
    let text = String::from_utf8_lossy(data).into_owned();
    vmx.set("displayName", text.clone());
    assert_eq!(vmx.get("DISPLAYNAME"), Some(text.as_str()));
    if let Ok(again) = Vmx::parse(&vmx.to_bytes()) {
        assert_eq!(again.get("displayname"), Some(text.as_str()));
    }
});
