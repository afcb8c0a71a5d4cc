"""The Debian that the appliance is made of, before its own package and files are put on it."""
import os
import subprocess
from pathlib import Path

from harness import bootable, cache, debian

HERE = Path(__file__).resolve().parent
# What it boots with, is set up with, and is administered with. vSphere shuts it down and shows its address by open-vm-tools.
INCLUDE = ["linux-image-amd64", "initramfs-tools", "zstd", "busybox", "kmod", "udev", "systemd-sysv", "systemd-resolved", "systemd-timesyncd", "dbus",
           "init-system-helpers", "libstdc++6", "ca-certificates", "iproute2", "iputils-ping", "sudo", "less", "nano", "open-vm-tools"]
# Disks of vSphere (pvscsi, the LSI ones, SATA, NVMe) and of KVM; and credentials that QEMU hands over.
INITRAMFS_MODULES = ["virtio_pci", "virtio_blk", "virtio_scsi", "vmw_pvscsi", "mptspi", "mptsas", "ahci", "nvme", "sd_mod", "ext4", "qemu_fw_cfg", "dmi_sysfs"]
# Drivers of what no virtual machine has: half of the kernel's size.
NO_DRIVERS = ["sound", "drivers/media", "drivers/gpu", "drivers/staging", "drivers/infiniband", "drivers/iio", "drivers/isdn", "drivers/bluetooth",
              "drivers/net/wireless", "net/bluetooth", "net/mac80211", "net/wireless"]


def epoch():
    """What all its times are, in seconds since 1970: SOURCE_DATE_EPOCH, or the commit's."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    return int(given or subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=HERE, check=True, stdout=subprocess.PIPE, text=True).stdout)


def cached():
    """The system as a tar file; made when it is not in the cache (two minutes)."""
    return cache.keyed("appliance-system", [__file__, bootable.__file__, debian.__file__], make) / "system.tar"


def make(into):
    """Makes the tar file in the folder `into`, of what Debian has now."""
    cache.say("making the appliance's Debian (two minutes)")
    excluded = "".join(f"path-exclude=/lib/modules/*/kernel/{what}/*\\n" for what in NO_DRIVERS)
    # It stays, so that later kernels are as small.
    lean = f"--extract-hook=mkdir -p \"$1/etc/dpkg/dpkg.cfg.d\" && printf '{excluded}' >\"$1/etc/dpkg/dpkg.cfg.d/rekindle-appliance\""
    bootable.bootstrap(into / "system.tar", INCLUDE, into / "log", lean, "--dpkgopt=path-include=/usr/share/doc/*/copyright",
                       bootable.initramfs_hook(INITRAMFS_MODULES), epoch=epoch())
    return into / "system.tar"
