"""Disks that boot: Debian's smallest system on one ext4 partition, which GRUB finds by the BIOS."""
import os
import re
import subprocess
from pathlib import Path

from . import debian

FIRST_MIB = 1  # the partition's start; GRUB lives before it
GRUB = Path("/usr/lib/grub/i386-pc")
GRUB_MODULES = ["biosdisk", "part_msdos", "ext2", "serial", "terminal", "echo", "linux"]
NO_PAGES = [f"--dpkgopt=path-exclude=/usr/share/{what}/*" for what in ["doc", "man", "locale"]]


def bootstrap(target, include, log, *options, epoch=None):
    """Debian minbase with the packages, as a folder or (NAME.tar) an archive with no time after `epoch`. What it says goes to the file `log`."""
    command = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={','.join(include)}", *NO_PAGES, *options,
               debian.codename(), target, "-"]
    with open(log, "wb") as out:
        done = subprocess.run(command, input=debian.sources().encode(), stdout=out, stderr=subprocess.STDOUT,
                              env={**os.environ, **({"SOURCE_DATE_EPOCH": str(epoch)} if epoch else {})})
    if done.returncode:
        raise RuntimeError(f"mmdebstrap failed:\n{Path(log).read_text()[-1500:]}")


def initramfs_hook(modules):
    """mmdebstrap's option for an initramfs that has these modules and no others."""
    listed = "\\n".join(modules)
    return (f"--customize-hook=printf '{listed}\\n' >>\"$1/etc/initramfs-tools/modules\""
            " && echo MODULES=list >\"$1/etc/initramfs-tools/conf.d/rekindle\" && chroot \"$1\" update-initramfs -u")


def partition(disk, size_mib):
    """A sparse raw disk with one partition to its end."""
    with open(disk, "wb") as file:
        file.truncate(size_mib << 20)
    table = f"label: dos\nlabel-id: 0x52656b69\nstart={FIRST_MIB}MiB, type=83, bootable\n"
    subprocess.run(["sfdisk", "-q", disk], input=table, text=True, check=True)


def file_system(root, disk, size_mib, label, options=(), extended=(), epoch=None):
    """The folder `root` as an ext4 on the disk's partition, with mke2fs's `options` and `extended` ones; all its times are `epoch`, if given."""
    extended = ",".join([f"offset={FIRST_MIB << 20}", "root_owner=0:0", *extended])
    environment = {**os.environ, **({"E2FSPROGS_FAKE_TIME": str(epoch)} if epoch else {})}
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-L", label, *options, "-d", root, "-E", extended, disk, f"{size_mib - FIRST_MIB}M"],
                   check=True, stderr=subprocess.DEVNULL, env=environment)
    if epoch:
        _set_times(f"{disk}?offset={FIRST_MIB << 20}", epoch, environment)


def _set_times(file_system, epoch, environment):
    """Inodes get the time at which they were read from the folder, which nobody can set there."""
    found = subprocess.run(["dumpe2fs", "-h", file_system], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    counts = {name: int(re.search(rf"^{name}:\s+(\d+)$", found, re.MULTILINE)[1]) for name in ["Inode count", "Free inodes"]}
    # mke2fs gives out the first free inode, so those in use are the first.
    numbers = range(1, counts["Inode count"] - counts["Free inodes"] + 1)
    commands = "".join(f"sif <{number}> {time} {value}\n" for number in numbers for time, value in [
        ("atime", f"@{epoch}"), ("ctime", f"@{epoch}"), ("crtime", f"@{epoch}"), ("atime_extra", 0), ("ctime_extra", 0), ("crtime_extra", 0)])
    subprocess.run(["debugfs", "-w", "-f", "-", file_system], input=commands, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True,
                   env=environment)


def boot_loader(disk, config, scratch, modules=()):
    """GRUB with its configuration inside its core image, which follows the boot sector."""
    (scratch / "grub.cfg").write_text(config)
    subprocess.run(["grub-mkimage", "-O", "i386-pc", "-d", GRUB, "-p", "/boot/grub", "-c", scratch / "grub.cfg", "-o", scratch / "core.img",
                    *GRUB_MODULES, *modules], check=True)
    core = (scratch / "core.img").read_bytes()
    if len(core) > (FIRST_MIB << 20) - 512:
        raise RuntimeError(f"GRUB's core image of {len(core)} bytes does not fit before the partition")
    with open(disk, "r+b") as file:
        file.write((GRUB / "boot.img").read_bytes()[:440])  # the rest of the sector is the partition table
        file.seek(512)                                      # where boot.img looks for the core image
        file.write(core)
