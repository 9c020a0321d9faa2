"""main.py DEBS OUTDIR ENVIRONMENTS NAME...: the Debian packages of some environments, as data for Nix.

Reads the package lists of this machine's apt, follows the dependencies of what the environments name, downloads the
.deb files into DEBS (those that are there and whole are kept), and writes OUTDIR/packages.json: one entry for each
package or merged cycle of packages, with version, files and direct dependencies.
"""

import json
import re
import sys
from pathlib import Path

import apt
import graph

# In every environment, and needed by the scripts of many packages; nix/default.nix has the same list.
BASE = ["bash", "dash", "coreutils", "grep", "sed", "mawk", "findutils", "tar", "gzip"]


def packages_of(environment: Path) -> list[str]:
    """The packages that an environment's file names in its line `# packages: ...`."""
    line = re.search(r"^# packages:(.*)$", environment.read_text(), re.MULTILINE)
    if not line:
        sys.exit(f"{environment}: no line '# packages:'")
    return line.group(1).split()


def legal(name: str) -> str:
    """A name with only the characters that a store path may have."""
    return re.sub(r"[^A-Za-z0-9+._?=-]", "-", name)


def entry(members: list[str], key: str, deps: list[str], records: dict, files: dict) -> dict:
    """What packages.json tells of one package, or of a cycle of packages under the name of one of them."""
    return {
        "version": legal(records[key]["Version"].split(":", 1)[-1]),
        "deps": deps,
        "debs": [
            {
                "name": legal(files[member].name.replace("%3a", "-")),
                "file": str(files[member]),
                "sha256": records[member]["SHA256"],
                "url": "mirror://debian/" + records[member]["Filename"],
            }
            for member in members
        ],
    }


def main() -> None:
    debs, out, environments = map(Path, sys.argv[1:4])
    roots = list(BASE)
    for name in sys.argv[4:]:
        roots += packages_of(environments / f"{name}.sh")

    records = apt.read_lists()
    needed = graph.closure(roots, records)
    merged = graph.merge_cycles(needed, roots)
    files = apt.download({name: records[name] for name in needed}, debs)

    packages = {
        key: entry(members, key, deps, records, files) for key, (members, deps) in sorted(merged.items())
    }
    below_shell = graph.reachable("dash", {key: package["deps"] for key, package in packages.items()})
    for key, package in packages.items():
        # What the shell itself needs must not have the shell as the interpreter of its scripts.
        package["shell"] = key not in below_shell
    (out / "packages.json").write_text(json.dumps(packages, indent=1) + "\n")
    size = sum(int(records[name]["Size"]) for name in needed)
    print(f"debian-store: {len(needed)} packages, {size / 1e6:.0f} MB of .deb files")


main()
