"""A real VM, small: Debian minbase on one ext4 partition, which GRUB boots by the BIOS.

Every byte from the boot sector on comes from its disk. `make` lays it down as a backup would have it: a .vmx beside a
streamOptimized VMDK.
"""
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import bootable, cache

HERE = Path(__file__).resolve().parent
INIT = HERE.parent / "vm" / "init"
NAME = "sample"
SIZE_MIB = 640
INCLUDE = ["linux-image-cloud-amd64", "initramfs-tools", "zstd", "busybox", "e2fsprogs"]
INITRAMFS_MODULES = ["virtio_pci", "virtio_blk", "ext4"]
GRUB_CONFIG = """\
serial --unit=0 --speed=115200
terminal_output serial
set root=hd0,msdos1
echo VM boot loader
linux /boot/vmlinuz-{version} root=LABEL=rekindle ro init=/sbin/rekindle-init console=ttyS0 quiet loglevel=4 panic=-1 \
    mitigations=off random.trust_cpu=on no_timer_check
initrd /boot/initrd.img-{version}
boot
"""

VMX = """\
.encoding = "UTF-8"
config.version = "8"
virtualHW.version = "14"
displayName = "{name}"
guestOS = "debian11-64"
memSize = "512"
numvcpus = "2"
firmware = "bios"
uuid.bios = "56 4d 52 65 6b 69 6e 64-6c 65 20 73 61 6d 70 6c"
uuid.location = "56 4d 52 65 6b 69 6e 64-6c 65 20 73 61 6d 70 6c"
scsi0.present = "TRUE"
scsi0.virtualDev = "pvscsi"
scsi0:0.present = "TRUE"
scsi0:0.deviceType = "scsi-hardDisk"
scsi0:0.fileName = "{name}.vmdk"
serial0.present = "TRUE"
serial0.fileType = "file"
serial0.fileName = "{name}.log"
"""


def raw_disk():
    """The cached raw disk, never booted; made when it is not there (one to two minutes)."""
    return cache.keyed("sample-vm", [INIT, __file__, HERE / "bootable.py", HERE / "debian.py"], _make) / "disk.raw"


def make(folder, name=NAME):
    """Puts NAME.vmx and NAME.vmdk (streamOptimized) into the folder and returns the .vmx."""
    stream = raw_disk().with_name("disk.vmdk")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(stream, folder / f"{name}.vmdk")
    vmx = folder / f"{name}.vmx"
    vmx.write_text(VMX.format(name=name))
    return vmx


def _make(into):
    cache.say("making the sample VM (once, one to two minutes)")
    with tempfile.TemporaryDirectory(dir=into.parent) as scratch:
        scratch = Path(scratch)
        root, disk = scratch / "root", into / "disk.raw"
        version = _debian(root, scratch)
        bootable.partition(disk, SIZE_MIB)
        bootable.file_system(root, disk, SIZE_MIB, "rekindle")
        bootable.boot_loader(disk, GRUB_CONFIG.format(version=version), scratch)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", disk, into / "disk.vmdk"], check=True)


def _debian(root, scratch):
    """Debian's smallest system with a kernel and our init. Returns the kernel's version."""
    bootable.bootstrap(root, INCLUDE, scratch / "log", bootable.initramfs_hook(INITRAMFS_MODULES))
    for leftover in ["var/cache/apt", "var/lib/apt/lists"]:
        shutil.rmtree(root / leftover, ignore_errors=True)
    shutil.copy(INIT, root / "sbin/rekindle-init")
    (root / "sbin/rekindle-init").chmod(0o755)
    files = "find usr/bin usr/lib boot -type f -print0 | sort -z | xargs -0 sha256sum >etc/rekindle.sha256"
    subprocess.run(files, shell=True, cwd=root, check=True)
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    return kernel.name.removeprefix("vmlinuz-")
