"""bundle.py BUNDLE [--root DIR] [--env NAME=VALUE]... [--bind SOURCE] [--annotation NAME=VALUE]... [--hook WORD...;]
   [--map-to UID] -- COMMAND...: writes BUNDLE/config.json for runc and crun, out of the config.json beside this file.
--bind puts a mounted view at /nix; --hook a command (up to a ';') at createRuntime and poststop."""
import json
import pathlib
import sys

config = json.loads((pathlib.Path(__file__).parent / "config.json").read_text())
process, words = config["process"], sys.argv[2:]
while words and words[0] != "--":
    option, words = words[0], words[1:]
    if option == "--hook":
        end = words.index(";")
        hook, words = words[:end], words[end + 1:]
        both = {"path": hook[0], "args": hook}
        config["hooks"] = {"createRuntime": [both], "poststop": [both]}
        continue
    value, words = words[0], words[1:]
    if option == "--root":
        config["root"]["path"] = value
    elif option == "--env":
        process["env"].append(value)
    elif option == "--bind":
        config["mounts"].append({"destination": "/nix", "type": "bind", "source": value, "options": ["bind", "nosuid", "nodev"]})
    elif option == "--annotation":
        name, _, text = value.partition("=")
        config.setdefault("annotations", {})[name] = text
    elif option == "--map-to":
        config["linux"]["namespaces"].append({"type": "user"})
        whole = [{"containerID": 0, "hostID": int(value), "size": 65536}]
        config["linux"]["uidMappings"] = config["linux"]["gidMappings"] = whole
    else:
        sys.exit(f"bundle.py: {option}?\n{__doc__}")
process["args"] = words[1:] or sys.exit(__doc__)
(pathlib.Path(sys.argv[1]) / "config.json").write_text(json.dumps(config, indent=1))
