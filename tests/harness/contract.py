"""Schemathesis against a daemon: calls made from the API's own document, answers held against it. What scripts/setup installed."""
import os
import subprocess
from pathlib import Path

# What a call that is as the document says may end with: done, or refused for a reason that no schema can tell.
GOOD = ["2xx", "401", "403", "404", "409", "412", "422", "429", "503", "507"]
# What one that is not may end with.
BAD = ["400", "401", "403", "404", "405", "406", "409", "412", "413", "415", "422", "429"]
CONFIG = """\
headers = {{ Authorization = "Bearer ${{CONTRACT_TOKEN}}" }}
request-timeout = 40
{parameters}
[checks.positive_data_acceptance]
expected-statuses = {good}
[checks.negative_data_rejection]
expected-statuses = {bad}
"""


def folder():
    return Path(os.environ.get("REKINDLE_CONTRACT_TOOL") or Path.home() / ".cache" / "rekindle-contract")


def installed():
    return (folder() / "bin" / "schemathesis").exists()


def hold(where, url, token, seconds, seed, named=None):
    """Makes calls for so many seconds, with what `named` gives parameters of the path; raises if any is answered otherwise than the document says."""
    where.mkdir()
    parameters = "".join(f'"path.{name}" = "{value}"\n' for name, value in (named or {}).items())
    config = where / "schemathesis.toml"
    config.write_text(CONFIG.format(parameters=f"[parameters]\n{parameters}" if parameters else "", good=GOOD, bad=BAD))
    # Below the rate at which the daemon refuses an address.
    command = [folder() / "bin" / "schemathesis", "--config-file", config, "run", f"{url}/api/v1/openapi.json", "--checks", "all",
               # Under a key that it has used before, a call is answered as before, also when what it made has gone since.
               "--exclude-checks", "ensure_resource_availability",
               "--rate-limit", "150/s", "--seed", str(seed), "--max-time", str(seconds), "--suppress-health-check", "all",
               "--exclude-path-regex", "/events$",  # without an end while a job serves
               "--generation-database", "none", "--continue-on-failure", "--no-color", "--output-truncate", "false"]
    with open(where / "said", "wb") as said:
        done = subprocess.run(command, cwd=where, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                              env={**os.environ, "CONTRACT_TOKEN": token, "HOME": str(where), "NO_PROXY": "127.0.0.1"}, timeout=seconds * 3 + 300)
    said = (where / "said").read_text(errors="replace")
    if done.returncode:
        raise AssertionError(f"seed {seed}: an answer is not as the API's document says\n{said}")
    return said
