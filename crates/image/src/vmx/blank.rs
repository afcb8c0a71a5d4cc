use super::Vmx;

impl Vmx {
    /// What every VM has: 1 GiB of memory, one processor, a display, and no controller, disk or network.
    pub fn blank(display_name: &str) -> Self {
        let mut vmx = Self::default();
        for (key, value) in [
            (".encoding", "UTF-8"),
            ("config.version", "8"),
            ("virtualHW.version", "13"),
            ("guestOS", "other-64"),
            ("memSize", "1024"),
            ("numvcpus", "1"),
            ("pciBridge0.present", "TRUE"),
            ("pciBridge4.present", "TRUE"),
            ("pciBridge4.virtualDev", "pcieRootPort"),
            ("pciBridge4.functions", "8"),
            ("svga.present", "TRUE"),
            ("displayName", display_name),
        ] {
            vmx.set(key, value);
        }
        vmx
    }
}
