"""The appliance as vSphere takes it: an OVA (DSP0243, OVF 1.1), with a streamOptimized VMDK and a manifest of SHA-256."""
import hashlib
import re
import subprocess
import tarfile

DATA_GIB = 200
# What first boot asks for; /usr/lib/rekindle-appliance/unattended reads it.
PROPERTIES = [
    ("hostname", "text", "Host name", "Small letters, digits, dashes; empty: rekindle"),
    ("address", "text", "Address", "With prefix, as 192.0.2.5/24; empty: DHCP"),
    ("gateway", "text", "Gateway", "Empty: none"),
    ("dns", "text", "DNS servers", "Up to three addresses with spaces between"),
    ("password", "password", "Password of the user administrator",
     "12 characters at least, for the web console and the machine; empty: all of this is asked for on the VM's console"),
]

DESCRIPTOR = """\
<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" \
xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" \
xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData" \
xmlns:vmw="http://www.vmware.com/schema/ovf">
  <References>
    <File ovf:href="{vmdk}" ovf:id="system-file" ovf:size="{size}"/>
  </References>
  <DiskSection>
    <Info>The system, and an empty disk that first boot makes the data disk of</Info>
    <Disk ovf:capacity="{capacity}" ovf:capacityAllocationUnits="byte" ovf:diskId="system" ovf:fileRef="system-file" \
ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>
    <Disk ovf:capacity="{data_gib}" ovf:capacityAllocationUnits="byte * 2^30" ovf:diskId="data" \
ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized" ovf:populatedSize="0"/>
  </DiskSection>
  <NetworkSection>
    <Info>The network that hosts mount from and people reach the console in</Info>
    <Network ovf:name="VM Network"><Description>Hosts, vCenter and people</Description></Network>
  </NetworkSection>
  <VirtualSystem ovf:id="{name}">
    <Info>Rekindle {version}</Info>
    <Name>{name}</Name>
    <OperatingSystemSection ovf:id="96" vmw:osType="debian10_64Guest"><Info>Debian</Info></OperatingSystemSection>
    <VirtualHardwareSection ovf:transport="com.vmware.guestInfo">
      <Info>2 processors, 4 GiB</Info>
      <System>
        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>{name}</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>vmx-13</vssd:VirtualSystemType>
      </System>
{items}      <vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="bios"/>
      <vmw:Config ovf:required="false" vmw:key="powerOpInfo.powerOffType" vmw:value="soft"/>
      <vmw:Config ovf:required="false" vmw:key="powerOpInfo.resetType" vmw:value="soft"/>
      <vmw:Config ovf:required="false" vmw:key="tools.syncTimeWithHost" vmw:value="false"/>
    </VirtualHardwareSection>
    <ProductSection ovf:class="rekindle">
      <Info>What first boot sets</Info>
      <Product>Rekindle</Product>
      <Version>{version}</Version>
{properties}    </ProductSection>
  </VirtualSystem>
</Envelope>
"""
# Elements of an Item in the order of their schema, which is the alphabet's.
ITEMS = [
    {"AllocationUnits": "hertz * 10^6", "ElementName": "2 processors", "InstanceID": "1", "ResourceType": "3", "VirtualQuantity": "2"},
    {"AllocationUnits": "byte * 2^20", "ElementName": "4 GiB of memory", "InstanceID": "2", "ResourceType": "4", "VirtualQuantity": "4096"},
    {"Address": "0", "ElementName": "SCSI controller 0", "InstanceID": "3", "ResourceSubType": "VirtualSCSI", "ResourceType": "6"},
    {"AddressOnParent": "0", "ElementName": "System disk", "HostResource": "ovf:/disk/system", "InstanceID": "4", "Parent": "3", "ResourceType": "17"},
    {"AddressOnParent": "1", "ElementName": "Data disk", "HostResource": "ovf:/disk/data", "InstanceID": "5", "Parent": "3", "ResourceType": "17"},
    {"AddressOnParent": "7", "AutomaticAllocation": "true", "Connection": "VM Network", "ElementName": "Network adapter 1", "InstanceID": "6",
     "ResourceSubType": "VmxNet3", "ResourceType": "10"},
]
CID = re.compile(rb"^CID=[0-9a-f]{1,8}$", re.MULTILINE)  # QEMU writes no leading zeros, and leaves what a longer one before it ended with
DESCRIPTOR_AT, DESCRIPTOR_MOST = 512, 20 * 512  # where QEMU puts the text of a VMDK


def stream_optimized(disk, vmdk):
    """The raw disk as a streamOptimized VMDK."""
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized,adapter_type=lsilogic,compat6", disk, vmdk], check=True)
    settle_content_id(vmdk)


def settle_content_id(vmdk):
    """The id that QEMU draws for a disk's content is made one of the content."""
    with open(vmdk, "r+b") as file:
        file.seek(DESCRIPTOR_AT)
        before, after = CID.split(file.read(DESCRIPTOR_MOST).partition(b"\0")[0])
        whole = hashlib.sha256(before + after)
        while block := file.read(1 << 20):
            whole.update(block)
        text = before + b"CID=" + whole.hexdigest()[:8].encode() + after
        file.seek(DESCRIPTOR_AT)
        file.write(text.ljust(DESCRIPTOR_MOST, b"\0"))


def property_of(key, kind, label, what):
    hidden = ' ovf:password="true"' if kind == "password" else ""
    return (f'      <Property ovf:key="{key}" ovf:type="string"{hidden} ovf:userConfigurable="true" ovf:value="">'
            f"<Label>{label}</Label><Description>{what}</Description></Property>\n")


def descriptor(name, version, vmdk, capacity):
    items = "".join("      <Item>" + "".join(f"<rasd:{key}>{value}</rasd:{key}>" for key, value in item.items()) + "</Item>\n" for item in ITEMS)
    properties = "".join(property_of(*one) for one in PROPERTIES)
    return DESCRIPTOR.format(name=name, version=version, vmdk=vmdk.name, size=vmdk.stat().st_size, capacity=capacity, data_gib=DATA_GIB, items=items,
                             properties=properties)


def pack(ova, disk, name, version, scratch, epoch):
    """Writes the OVA: descriptor, manifest, disk, in the order that an import streams them in."""
    vmdk, ovf, manifest = (scratch / f"{name}{end}" for end in ["-disk1.vmdk", ".ovf", ".mf"])
    stream_optimized(disk, vmdk)
    ovf.write_text(descriptor(name, version, vmdk, disk.stat().st_size))
    lines = []
    for path in [ovf, vmdk]:
        with open(path, "rb") as file:
            lines.append(f"SHA256({path.name})= {hashlib.file_digest(file, 'sha256').hexdigest()}\n")
    manifest.write_text("".join(lines))
    with tarfile.open(ova, "w", format=tarfile.USTAR_FORMAT) as archive:
        for path in [ovf, manifest, vmdk]:
            entry = tarfile.TarInfo(path.name)
            entry.size, entry.mtime, entry.mode = path.stat().st_size, epoch, 0o644
            with open(path, "rb") as file:
                archive.addfile(entry, file)
