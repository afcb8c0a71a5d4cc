"""The stand-in's own test: a VM on the local datastore, over SOAP."""
import os, random, socket, time, urllib.error, urllib.request
import xml.etree.ElementTree as ET

from doors import strip
from faults import Fault
from rpc import OPTIONS


def self_test(api, at):
    jar = {}

    def soap(method, kind, id, inner=""):
        body = (f'<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><e:Body>'
                f'<{method} xmlns="urn:vim25"><_this type="{kind}">{id}</_this>{inner}</{method}></e:Body></e:Envelope>')
        request = urllib.request.Request(f"http://{at}/sdk", body.encode(), {"Cookie": jar.get("cookie", "")})
        try:
            with urllib.request.urlopen(request) as answer:
                jar["cookie"] = (answer.headers.get("Set-Cookie") or jar.get("cookie", "")).split(";")[0]
                return strip(ET.fromstring(answer.read())).find("Body")[0]
        except urllib.error.HTTPError as error:
            detail = strip(ET.fromstring(error.read())).find("Body/Fault/detail")[0]
            raise Fault(detail.tag[:-5])

    def fails(name, *call):
        try:
            soap(*call)
        except Fault as fault:
            assert fault.name == name, f"{fault.name} instead of {name}"
            return
        raise AssertionError(f"no {name}")

    def task(method, kind, id, inner=""):
        ref = soap(method, kind, id, inner).find("returnval").text
        spec = f'<specSet><propSet><type>Task</type><pathSet>info.state</pathSet></propSet><objectSet><obj type="Task">{ref}</obj></objectSet></specSet>'
        while True:
            state = soap("RetrievePropertiesEx", "PropertyCollector", "PropertyCollector", spec).findtext("returnval/objects/propSet/val")
            if state != "running":
                assert state == "success", api.objects["Task", ref].error
                return api.objects["Task", ref].result
            time.sleep(0.02)

    login = "<userName>{}</userName><password>{}</password>"
    fails("InvalidLogin", "Login", "SessionManager", "SessionManager", login.format(api.options.user, "x"))
    fails("NotAuthenticated", "CurrentTime", "ServiceInstance", "ServiceInstance")
    soap("Login", "SessionManager", "SessionManager", login.format(api.options.user, api.options.password))
    home, data = os.path.join(api.options.dir, "vm"), random.randbytes(1 << 20)
    os.mkdir(home)
    open(home + "/vm-flat.vmdk", "wb").write(data)
    open(home + "/vm.vmdk", "w").write('createType="vmfs"\nRW 2048 VMFS "vm-flat.vmdk"\n')
    open(home + "/vm.vmx", "w").write('displayName = "vm"\nmemSize = "64"\nscsi0:0.fileName = "vm.vmdk"\n')
    spec = "<path>[local] {}</path><name>vm</name>"
    vm = task("RegisterVM_Task", "Folder", "group-v3", spec.format("vm/vm.vmx"))[1]
    assert soap("FindByDatastorePath", "SearchIndex", "SearchIndex", "<path>[local] vm/vm.vmx</path>").findtext("returnval") == vm
    task("PowerOnVM_Task", "VirtualMachine", vm)
    fails("InvalidPowerState", "UnregisterVM", "VirtualMachine", vm)
    disk = api.objects["VirtualMachine", vm].open_disks[0]
    disk.write(4096, b"guest")
    assert disk.read(0, 1 << 20) == data[:4096] + b"guest" + data[4101:]
    task("PowerOffVM_Task", "VirtualMachine", vm)
    assert sorted(os.listdir(home)) == ["vm-flat.vmdk", "vm.vmdk", "vm.vmx", "vmware.log"]
    soap("UnregisterVM", "VirtualMachine", vm)
    fails("ManagedObjectNotFound", "UnregisterVM", "VirtualMachine", vm)
    with socket.socket() as nobody:  # bound, and not listening
        nobody.bind(("127.0.0.1", 0))
        OPTIONS.nfs_port = OPTIONS.mount_port = nobody.getsockname()[1]
        nas = "<spec><remoteHost>127.0.0.1</remoteHost><remotePath>/x</remotePath><localPath>x</localPath></spec>"
        fails("PlatformConfigFault", "CreateNasDatastore", "HostDatastoreSystem", "datastoreSystem-9", nas)
    print("self-test passed")
