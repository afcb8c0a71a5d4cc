"""The bill of materials: what the program is linked with, as CycloneDX 1.5 has it. The same commit gives the same bytes."""
import json
import tomllib

import linked


def checksums():
    """SHA-256 of each package as the registry gives it, by name and version."""
    lock = tomllib.loads((linked.ROOT / "Cargo.lock").read_text())
    return {(package["name"], package["version"]): package["checksum"] for package in lock["package"] if "checksum" in package}


def reference(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(package, known):
    made = {"type": "library", "bom-ref": reference(package), "name": package["name"], "version": package["version"], "purl": reference(package),
            "hashes": [{"alg": "SHA-256", "content": known[package["name"], package["version"]]}]}
    if package["license"]:
        # An older form of OR.
        made["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    if package["repository"]:
        made["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return made


def bill():
    """The bill as JSON text."""
    program, packages = linked.packages()
    known = checksums()
    root = {"type": "application", "bom-ref": reference(program), "name": program["name"], "version": program["version"],
            "licenses": [{"expression": program["license"]}]}
    made = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "metadata": {"component": root},
            "components": [component(package, known) for package in packages],
            "dependencies": [{"ref": reference(program), "dependsOn": [reference(package) for package in packages]}]}
    return json.dumps(made, indent=1) + "\n"
