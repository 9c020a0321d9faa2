"""What apt knows: the package lists of this machine, and downloads."""

import hashlib
import subprocess
import sys
from pathlib import Path

FIELDS = {"Package", "Version", "Depends", "Pre-Depends", "Provides", "Filename", "SHA256", "Size"}


def read_lists() -> dict[str, dict[str, str]]:
    """Each package's newest record, by name."""
    command = ["apt-get", "indextargets", "--format", "$(FILENAME)", "Created-By: Packages"]
    files = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    records: dict[str, dict[str, str]] = {}
    for file in filter(lambda f: Path(f).exists(), files):
        text = subprocess.run(
            ["/usr/lib/apt/apt-helper", "cat-file", file], check=True, capture_output=True, text=True
        ).stdout
        for record in map(parse, text.split("\n\n")):
            name = record.get("Package")
            if name and (name not in records or newer(record["Version"], records[name]["Version"])):
                records[name] = record
    if not records:
        sys.exit("apt has no package lists: run apt-get update")
    return records


def parse(paragraph: str) -> dict[str, str]:
    """The fields of one paragraph that matter here; they never continue on a second line."""
    pairs = (line.split(":", 1) for line in paragraph.split("\n") if ":" in line and line[0] not in " \t")
    return {field: value.strip() for field, value in pairs if field in FIELDS}


def newer(one: str, other: str) -> bool:
    """Whether a version is newer, by Debian's own comparison."""
    return one != other and subprocess.run(["dpkg", "--compare-versions", one, "gt", other]).returncode == 0


def download(records: dict[str, dict[str, str]], directory: Path) -> dict[str, Path]:
    """The .deb file of each package; only those are fetched whose file is missing or not whole."""
    files = find(records, directory)
    missing = [f"{name}={record['Version']}" for name, record in sorted(records.items()) if name not in files]
    for start in range(0, len(missing), 40):
        command = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *missing[start : start + 40]]
        if subprocess.run(command, cwd=directory).returncode != 0:
            sys.exit("apt could not download all packages; if it says 404, run apt-get update and try again")
    files = find(records, directory)
    if lost := sorted(set(records) - set(files)):
        sys.exit(f"downloaded, but not with the SHA-256 that apt's lists tell: {' '.join(lost)}")
    return files


def find(records: dict[str, dict[str, str]], directory: Path) -> dict[str, Path]:
    """The .deb files that are there with the right hash."""
    found = {}
    for name, record in records.items():
        for file in directory.glob(f"{name}_*.deb"):
            if hashlib.sha256(file.read_bytes()).hexdigest() == record["SHA256"]:
                found[name] = file
    return found
