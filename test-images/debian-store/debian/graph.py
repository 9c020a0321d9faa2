"""Debian's dependencies as a graph without cycles, which is what Nix needs."""

import re
import sys

# Needed to configure a system, but not by programs that run in a store.
DROP = set(
    """adduser ca-certificates cdebconf cron dbus debconf debconf-2.0 dpkg init-d-script init-system-helpers
    install-info iproute2 libdebconfclient0 logrotate lsb-base manpages manpages-dev media-types mime-support mount
    netbase passwd procps sensible-utils systemd systemd-sysv sysvinit-utils tzdata ucf udev""".split()
)

# Dependencies that are left out because they close a cycle that is better cut than merged.
CUT = {
    ("libc6", "libgcc-s1"),
    ("libc6", "libcrypt1"),
    ("perl-modules-5.36", "perl"),
    ("libperl5.36", "perl"),
    ("libdevmapper1.02.1", "dmsetup"),
}


def closure(roots: list[str], records: dict) -> dict[str, list[str]]:
    """Direct dependencies of everything that the roots need, themselves included."""
    providers: dict[str, list[str]] = {}
    for name, record in records.items():
        for provided in re.split(r",\s*", record.get("Provides", "")):
            providers.setdefault(re.split(r"[ (:]", provided)[0], []).append(name)
    graph: dict[str, list[str]] = {}
    todo = list(roots)
    while todo:
        name = todo.pop()
        if name not in graph:
            if name not in records:
                sys.exit(f"no such package in apt's lists: {name} (is this Debian 12, with its main section?)")
            graph[name] = dependencies(name, roots, records, providers)
            todo += graph[name]
    return graph


def dependencies(name: str, roots: list[str], records: dict, providers: dict) -> list[str]:
    """The packages that one package needs; of alternatives a root is preferred, else the first that there is."""
    found: list[str] = []
    for field in ("Pre-Depends", "Depends"):
        for clause in filter(None, re.split(r",\s*", records[name].get(field, ""))):
            alternatives = [re.split(r"[ (:\[]", alternative.strip())[0] for alternative in clause.split("|")]
            if not DROP.isdisjoint(alternatives):
                continue
            choice = choose(alternatives, roots, records, providers)
            if choice and choice not in DROP | {name, *found} and (name, choice) not in CUT:
                found.append(choice)
    return found


def choose(alternatives: list[str], roots: list[str], records: dict, providers: dict) -> str | None:
    """One of the alternatives of a dependency, or who provides it."""
    for alternative in alternatives:
        if alternative in roots:
            return alternative
    for alternative in alternatives:
        if alternative in records:
            return alternative
        if candidates := sorted(providers.get(alternative, [])):
            return next((candidate for candidate in candidates if candidate in roots), candidates[0])
    return None


def merge_cycles(graph: dict[str, list[str]], roots: list[str]) -> dict[str, tuple[list[str], list[str]]]:
    """The graph with each cycle as one node, named by a root in it or its shortest name: members, dependencies."""
    components = strongly_connected(graph)
    names = {
        member: min(component, key=lambda name: (name not in roots, len(name), name))
        for component in components
        for member in component
    }
    merged = {}
    for component in components:
        key = names[component[0]]
        below = {names[dep] for member in component for dep in graph[member]}
        merged[key] = (component, sorted(below - {key}))
    return merged


def strongly_connected(graph: dict[str, list[str]]) -> list[list[str]]:
    """Tarjan's algorithm; the components sorted within."""
    sys.setrecursionlimit(10_000)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    components: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for below in graph[node]:
            if below not in index:
                visit(below)
                low[node] = min(low[node], low[below])
            elif below in stack:
                low[node] = min(low[node], index[below])
        if low[node] == index[node]:
            start = stack.index(node)
            components.append(sorted(stack[start:]))
            del stack[start:]

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return components


def reachable(start: str, graph: dict[str, list[str]]) -> set[str]:
    """Everything below a node, itself included."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            todo += graph[node]
    return seen
