"""Gates that look at each VM of a group: its tools, a ping of the address that they tell, a program of the administrator's."""
import subprocess
from pathlib import Path

from .stories import expect, until

# In the story's network nobody may ping at first, as in every new one.
RANGE = Path("/proc/sys/net/ipv4/ping_group_range")
ADDRESS = "192.0.2.10"  # of each guest, as the stand-ins tell it
SCRIPT = """\
#!/bin/sh
env > "{folder}/seen.new" && mv "{folder}/seen.new" "{folder}/seen"
echo "asked for $REKINDLE_NAME"
[ -e "{folder}/go" ] || {{ echo "not yet"; exit 3; }}
"""


def start(world, groups):
    each = {"point": "web", "target": {"kind": "vsphere", "name": "vcenter"}}
    groups = [{"recoveries": [{**each, "name": name}], "gates": gates} for name, gates in groups]
    return world.daemon.api("POST", "batches", {"groups": groups})["id"]


def refused(world, gate, saying):
    try:
        start(world, [("gate-0", [gate])])
    except RuntimeError as error:
        expect(f"refused: {saying}", saying in str(error))
        return
    raise AssertionError(f"not refused: {gate}")


def ended(world, batch):
    view = world.daemon.api("GET", f"batches/{batch}")
    return view if view["finished_at"] else None


def take_back(world, view):
    for group in view["groups"]:
        for vm in group["vms"]:
            if vm["job"]:
                world.daemon.command("cancel", vm["job"])
                world.until_end(vm["job"], "cancelled")
    world.nothing_is_left()


def environment(folder):
    """What the script was given when it ran last."""
    seen = folder / "seen"
    lines = seen.read_text().splitlines() if seen.exists() else []
    return dict(line.split("=", 1) for line in lines if "=" in line)


def gates(world):
    folder = world.daemon.state_dir.parent / "gates"
    script = {"kind": "script", "name": "check", "within_seconds": 60}
    refused(world, script, "gates: No such file")
    folder.mkdir(mode=0o755)
    refused(world, script, "no gate script")
    (folder / "check").write_text(SCRIPT.format(folder=folder))
    (folder / "check").chmod(0o777)
    refused(world, script, "can change check")
    (folder / "check").chmod(0o755)
    refused(world, {**script, "name": "../gates/check"}, "the name of a file")

    # Time for two looks: the guest that the first one meets has not booted.
    batch = start(world, [("gate-1", [{"kind": "ping", "within_seconds": 12}]), ("gate-2", [])])
    view = until("a ping that the kernel forbids ends the batch", lambda: ended(world, batch), 60)
    expect("with the sysctl that it needs", view["state"] == "halted" and "gate-1: the kernel forbids it: the sysctl net.ipv4.ping_group_range" in view["groups"][0]["gates"][0]["error"]["message"])
    take_back(world, view)

    RANGE.write_text("0 2147483647")
    subprocess.run(["ip", "address", "add", f"{ADDRESS}/32", "dev", "lo"], check=True)
    pings = [{"kind": "ping", "within_seconds": 60}, {"kind": "ping", "host": ADDRESS, "within_seconds": 60}]
    batch = start(world, [("gate-1", [{"kind": "tools", "within_seconds": 60}, *pings, script]), ("gate-2", [])])
    look = lambda: world.daemon.api("GET", f"batches/{batch}")  # noqa: E731
    known = lambda: [gate["open"] for gate in look()["groups"][0]["gates"]]  # noqa: E731
    until("tools and pings are there, and the script says no", lambda: known() == [True, True, True, None], 60)
    expect("the next group waits for the script", look()["groups"][1]["state"] == "pending")
    job = look()["groups"][0]["vms"][0]["job"]
    told = {"REKINDLE_BATCH": batch, "REKINDLE_JOB": job, "REKINDLE_VM": "web", "REKINDLE_NAME": "gate-1", "REKINDLE_ADDRESS": ADDRESS}
    # It is asked beside the others, before the guest's tools tell its address too.
    until("the script is told all of it", lambda: set(told) <= set(environment(folder)), 60)
    seen = environment(folder)
    expect("a script knows its VM, and nothing of the appliance's environment", set(seen) - set(told) <= {"PATH", "LANG", "PWD", "SHLVL", "_", "OLDPWD"} and {key: seen[key] for key in told} == told)
    (folder / "go").touch()
    view = until("the script says yes", lambda: ended(world, batch), 60)
    expect("all is up", view["state"] == "completed" and view["groups"][1]["state"] == "up")
    said = [line for line in world.daemon.lines() if "a gate's script ran" in line and job in line]
    expect("what it said is in the log, with its job", any("exit status: 3" in line and "asked for gate-1 not yet" in line for line in said))
    expect("once as long as it says the same", len(said) == 2)
    take_back(world, view)
