"""A real VM, small: Debian minbase on one ext4 partition, which GRUB boots by the BIOS.

Every byte from the boot sector on comes from its disk. `make` lays it down as a backup would have it: a .vmx beside a
streamOptimized VMDK.
"""
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import cache, debian

HERE = Path(__file__).resolve().parent
INIT = HERE.parent / "vm" / "init"
NAME = "sample"
SIZE_MIB = 640
FIRST_MIB = 1  # the partition's start; GRUB lives before it
INCLUDE = "linux-image-cloud-amd64,initramfs-tools,zstd,busybox,e2fsprogs"
GRUB = Path("/usr/lib/grub/i386-pc")
GRUB_MODULES = ["biosdisk", "part_msdos", "ext2", "serial", "terminal", "echo", "linux"]
INITRAMFS_MODULES = ["virtio_pci", "virtio_blk", "ext4"]

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
    return cache.keyed("sample-vm", [INIT, __file__, HERE / "debian.py"], _make) / "disk.raw"


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
        _partition(disk)
        _file_system(root, disk)
        _boot_loader(disk, version, scratch)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", disk, into / "disk.vmdk"], check=True)


def _debian(root, scratch):
    """Debian's smallest system with a kernel and our init. Returns the kernel's version."""
    listed = "\\n".join(INITRAMFS_MODULES)
    hook = (f"printf '{listed}\\n' >>\"$1/etc/initramfs-tools/modules\" && echo MODULES=list >\"$1/etc/initramfs-tools/conf.d/rekindle\""
            " && chroot \"$1\" update-initramfs -u")
    _checked(["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={INCLUDE}", f"--customize-hook={hook}",
              *[f"--dpkgopt=path-exclude=/usr/share/{what}/*" for what in ["doc", "man", "locale"]],
              debian.codename(), root, "-"], scratch, given=debian.sources())
    for leftover in ["var/cache/apt", "var/lib/apt/lists"]:
        shutil.rmtree(root / leftover, ignore_errors=True)
    shutil.copy(INIT, root / "sbin/rekindle-init")
    (root / "sbin/rekindle-init").chmod(0o755)
    files = "find usr/bin usr/lib boot -type f -print0 | sort -z | xargs -0 sha256sum >etc/rekindle.sha256"
    subprocess.run(files, shell=True, cwd=root, check=True)
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    return kernel.name.removeprefix("vmlinuz-")


def _partition(disk):
    with open(disk, "wb") as file:
        file.truncate(SIZE_MIB << 20)
    table = f"start={FIRST_MIB}MiB, type=83, bootable\n"
    subprocess.run(["sfdisk", "-q", disk], input=table, text=True, check=True)


def _file_system(root, disk):
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-L", "rekindle", "-d", root, "-E", f"offset={FIRST_MIB << 20},root_owner=0:0",
                    disk, f"{SIZE_MIB - FIRST_MIB}M"], check=True, stderr=subprocess.DEVNULL)


def _boot_loader(disk, version, scratch):
    """GRUB with its whole configuration inside its core image, which follows the boot sector."""
    (scratch / "grub.cfg").write_text(
        "serial --unit=0 --speed=115200\nterminal_output serial\nset root=hd0,msdos1\necho VM boot loader\n"
        f"linux /boot/vmlinuz-{version} root=LABEL=rekindle ro init=/sbin/rekindle-init"
        " console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off random.trust_cpu=on no_timer_check\n"
        f"initrd /boot/initrd.img-{version}\nboot\n")
    subprocess.run(["grub-mkimage", "-O", "i386-pc", "-d", GRUB, "-p", "/", "-c", scratch / "grub.cfg", "-o", scratch / "core.img",
                    *GRUB_MODULES], check=True)
    core = (scratch / "core.img").read_bytes()
    if len(core) > (FIRST_MIB << 20) - 512:
        raise RuntimeError(f"GRUB's core image of {len(core)} bytes does not fit before the partition")
    with open(disk, "r+b") as file:
        file.write((GRUB / "boot.img").read_bytes()[:440])  # the rest of the sector is the partition table
        file.seek(512)                                      # where boot.img looks for the core image
        file.write(core)


def _checked(command, scratch, given):
    log = scratch / "log"
    with open(log, "wb") as out:
        done = subprocess.run(command, input=given.encode(), stdout=out, stderr=subprocess.STDOUT)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{log.read_text()[-1500:]}")
