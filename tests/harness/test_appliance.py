"""What first boot of the appliance's image takes and refuses, and what it writes: its own scripts, asked in bash."""
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
LIB = ROOT / "packaging/appliance/tree/usr/lib/rekindle-appliance"
ENVIRONMENT = """\
<Environment xmlns="http://schemas.dmtf.org/ovf/environment/1" xmlns:oe="http://schemas.dmtf.org/ovf/environment/1">
  <PropertySection>
    <Property oe:key="rekindle.address" oe:value="192.0.2.7/24"/><Property oe:key="rekindle.dns" oe:value=""/>
    <Property oe:key="other.address" oe:value="no"/>
    <Property oe:key="rekindle.password" oe:value="a&lt;b&gt; &amp;amp; &quot;="/>
  </PropertySection>
</Environment>
"""


def bash(script, *arguments, given=None):
    done = subprocess.run(["bash", "-c", f'. "{LIB}/unattended"; {script}', "test", *map(str, arguments)], input=given, stdout=subprocess.PIPE, text=True)
    return done.returncode, done.stdout


class FirstBoot(unittest.TestCase):
    def check(self, name, good, bad, *before):
        for answer in good:
            self.assertEqual(bash(f'check_{name} "$@"', *before, answer), (0, ""), answer)
        for answer in bad:
            status, said = bash(f'check_{name} "$@"', *before, answer)
            self.assertTrue(status == 1 and said, answer)

    def test_host_names(self):
        self.check("host_name", ["a", "recovery-1.example.org", "a" * 63], ["", "-a", "a-", "A", "a..b", "a b", "a" * 64, "a.b\nc", "a.%s" % ("b." * 40)])

    def test_addresses(self):
        self.check("address", ["dhcp", "192.0.2.5/24", "10.0.0.0/31", "10.255.0.1/8", "192.0.2.5/32"],
                   ["", "192.0.2.5", "192.0.2.0/24", "192.0.2.255/24", "192.0.2.5/33", "192.0.2.5/0", "192.0.2.5/024", "192.0.2.05/24", "256.0.2.5/24",
                    "127.0.0.1/8", "224.0.0.1/4", "0.0.0.1/8", "1.2.3/24", "192.0.2.5/24 x", "$(id)/24"])

    def test_gateways(self):
        self.check("gateway", ["", "192.0.2.1"], ["192.0.2.5", "192.0.3.1", "x", "192.0.2.1 192.0.2.2"], "192.0.2.5/24")

    def test_name_servers(self):
        self.check("dns", ["", "192.0.2.1", "192.0.2.1  192.0.2.2 192.0.2.3"], ["x", "192.0.2.1,192.0.2.2", "1.1.1.1 1.1.1.1 1.1.1.1 1.1.1.1"])

    def test_passwords(self):
        self.check("password", ["twelve chars", "ä" * 12, "x" * 256], ["", "eleven char", "x" * 257, "ä" * 129, "with a\ttabulator"])

    def test_properties_of_an_ovf(self):
        wanted = 'address=192.0.2.7/24\ndns=\npassword=a<b> &amp; "='
        self.assertEqual(bash("ovf_properties", given=ENVIRONMENT), (0, wanted))
        self.assertEqual(bash("ovf_properties", given=ENVIRONMENT.replace("\n", " ")), (0, wanted))

    def test_what_it_is_told(self):
        told = "hostname=told\ninterface=lo\naddress=192.0.2.5/24\ngateway=192.0.2.1\ndns=192.0.2.2,192.0.2.3\npassword=a = b = c = d==\n"
        script = 'interfaces() { echo lo; }; read_settings; take && echo "$HOST_NAME|$ADDRESS|$GATEWAY|$DNS|$password"'
        self.assertEqual(bash(script, given=told), (0, "told|192.0.2.5/24|192.0.2.1|192.0.2.2 192.0.2.3|a = b = c = d==\n"))
        for wrong in ["address=192.0.2.5", "gateway=192.0.3.1", "interface=eth9", "password=short", "nonsense=1"]:
            key = wrong.partition("=")[0] + "="
            changed = "".join(line + "\n" for line in told.splitlines() if not line.startswith(key)) + wrong + "\n"
            status, said = bash(script, given=changed)
            self.assertTrue(status == 1 and said and "|" not in said, wrong)


class DaemonConfig(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.file = Path(scratch.name) / "rekindle.toml"

    def set(self, before, table, key, text):
        self.file.write_text(before)
        self.assertEqual(bash('toml_set "$@"', self.file, table, key, text), (0, ""))
        self.assertEqual(bash('toml_get "$@"', self.file, table, key), (0, text + "\n"))
        return self.file.read_text()

    def test_a_table_is_taken_out_of_its_comment(self):
        self.assertEqual(self.set('#[nfs]\n#port = 2049\n#advertise = "x"\n#[console]\n', "nfs", "advertise", "192.0.2.5"),
                         '[nfs]\nadvertise = "192.0.2.5"\n#port = 2049\n#advertise = "x"\n#[console]\n')

    def test_what_the_administrator_has_set_stays(self):
        before = '[nfs]\nport = 2050\nadvertise = "192.0.2.4"\n[[target]]\nadvertise = "mine"\n#[nfs]\n'
        self.assertEqual(self.set(before, "nfs", "advertise", "192.0.2.5"),
                         '[nfs]\nadvertise = "192.0.2.5"\nport = 2050\n[[target]]\nadvertise = "mine"\n#[nfs]\n')

    def test_a_table_that_is_not_there_is_made(self):
        self.assertEqual(self.set('state_dir = "/x"\n', "nfs", "advertise", "192.0.2.5"), 'state_dir = "/x"\n[nfs]\nadvertise = "192.0.2.5"\n')

    def test_the_shipped_configuration_gets_both_keys_once(self):
        text = self.set((ROOT / "packaging/rekindle.toml").read_text(), "nfs", "advertise", "192.0.2.5")
        text = self.set(text, "console", "listen", "0.0.0.0:8480")
        shipped = (ROOT / "packaging/rekindle.toml").read_text().splitlines()
        added = [line for line in text.splitlines() if line not in shipped]
        self.assertEqual(added, ["[nfs]", 'advertise = "192.0.2.5"', "[console]", 'listen = "0.0.0.0:8480"'])


if __name__ == "__main__":
    unittest.main()
