"""What the program is linked with, as cargo tells it: the packages from a registry, neither for tests nor for the build."""
import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = "x86_64-unknown-linux-gnu"


def packages():
    """(the program's own package, those it is linked with by name and version), each as `cargo metadata` has it."""
    command = ["cargo", "metadata", "--locked", "--offline", "--format-version", "1", "--filter-platform", TARGET]
    done = subprocess.run(command, cwd=ROOT, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    metadata = json.loads(done.stdout)
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    (program,) = [package for package in metadata["packages"] if package["name"] == "rekindle" and not package["source"]]
    todo, found = [program["id"]], set()
    while todo:
        at = todo.pop()
        if at not in found:
            found.add(at)
            todo += [dep["pkg"] for dep in nodes[at]["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])]
    linked = [package for package in metadata["packages"] if package["id"] in found and package["source"]]
    if len(linked) < 50:
        raise RuntimeError(f"{len(linked)} packages cannot be all that the program is linked with")
    return program, sorted(linked, key=lambda package: (package["name"], package["version"]))
