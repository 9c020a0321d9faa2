"""As the root of a container with a view by overlayfs at /nix: tries to see what the view does not show.

With "handles" and paths: prints their file handles. Else arguments: the name of a hidden store path, a directory of the container's own, file handles of the host as TYPE:HEX. Prints each find
in a line, and at last "tried", how many ways led somewhere, how many mounts there are at /nix, and which ways.
"""
import ctypes
import os
import sys

libc = ctypes.CDLL(None, use_errno=True)


class Handle(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint), ("type", ctypes.c_int), ("bytes", ctypes.c_ubyte * 128)]


if sys.argv[1] == "handles":
    # On the host.
    for path in sys.argv[2:]:
        handle, mount = Handle(128), ctypes.c_int()
        if libc.name_to_handle_at(-100, path.encode(), ctypes.byref(handle), ctypes.byref(mount), 0):
            raise OSError(ctypes.get_errno(), path)
        print("%d:%s" % (handle.type, bytes(handle.bytes[: handle.length]).hex()))
    sys.exit()

SECRET, SCRATCH, HANDLES = sys.argv[1], sys.argv[2], sys.argv[3:]
OPEN_TREE, MOVE_MOUNT, FSOPEN, FSCONFIG, FSMOUNT, FSPICK = 428, 429, 430, 431, 432, 433
AT_FDCWD, EMPTY, CLONE, RECURSIVE = -100, 0x1000, 1, 0x8000
SET_FLAG, SET_STRING, CREATE, RECONFIGURE = 0, 1, 6, 7
tried = []


def call(number, *arguments):
    convert = lambda value: ctypes.c_char_p(value) if isinstance(value, bytes) else value and ctypes.c_long(value)
    answer = libc.syscall(number, *[ctypes.c_long(0) if value == 0 else convert(value) for value in arguments])
    if answer < 0:
        raise OSError(ctypes.get_errno(), "syscall %d" % number)
    return answer


def look(what, top):
    """Finds the hidden path, or the top of the overlay or of a layer, below a directory and above it."""
    tried.append(what)
    for below in ["", "nix", "store", "nix/store", "..", "../..", "store/..", "nix/..", "tree", "upper/tree", "nixview1", "nixview2"]:
        for name in [SECRET, SECRET + "/key"]:
            path = os.path.join(below, name)
            try:
                os.stat(path, dir_fd=top)
                print("found", what, path)
            except OSError:
                pass
        try:
            listing = os.open(below or ".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=top)
            if SECRET in os.listdir(listing):
                print("listed", what, below)
            os.close(listing)
        except OSError:
            pass


def attempt(what, function):
    try:
        top = function()
        if top is not None:
            look(what, top)
    except OSError:
        pass


def directory(path):
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY)


for path in ["/nix", "/nix/..", "/nix/store", "/nix/store/..", "/proc/self/root", "/proc/1/root", "/proc/1/root/nix/..", "/proc/self/cwd"]:
    attempt(path, lambda: directory(path))
for pid in filter(str.isdigit, os.listdir("/proc")):
    for link in ["root", "cwd"]:
        # Not of the host: the container has a pid namespace of its own.
        attempt("/proc/PID/" + link, lambda: directory("/proc/%s/%s/nix" % (pid, link)))

# The mount once more, and its surroundings.
for path in [b"/nix", b"/nix/..", b"/nix/store"]:
    for flags in [CLONE, CLONE | RECURSIVE]:
        attempt("clone of %s" % path.decode(), lambda: call(OPEN_TREE, AT_FDCWD, path, flags))


def moved():
    place = SCRATCH + "/moved"
    os.makedirs(place, exist_ok=True)
    clone = call(OPEN_TREE, AT_FDCWD, b"/nix", CLONE)
    call(MOVE_MOUNT, clone, b"", AT_FDCWD, place.encode(), 4)
    return directory(place)


attempt("moved clone", moved)


# The superblock once more.
def picked(path, command=None, mount=True):
    context = call(FSPICK, AT_FDCWD, path, 0)
    if command is not None:
        call(FSCONFIG, context, command, None, None, 0)
    return call(FSMOUNT, context, 0, 0) if mount else None


for path in [b"/nix", b"/nix/store", b"/nix/.."]:
    for command in [None, CREATE, RECONFIGURE]:
        attempt("superblock of %s" % path.decode(), lambda: picked(path, command))


def opened(kind, options):
    context = call(FSOPEN, kind, 0)
    for key, value in options:
        call(FSCONFIG, context, SET_STRING, key, value, 0)
    call(FSCONFIG, context, CREATE, None, None, 0)
    return call(FSMOUNT, context, 0, 0)


for source in [b"nixview", b"overlay", b"/nix"]:
    for options in [[], [(b"lowerdir", b"nixview:nixview1:nixview2")], [(b"lowerdir", b"/nix:/nix/store")]]:
        attempt("fsopen", lambda: opened(b"overlay", [(b"source", source)] + options))

# Overlays over the view, with redirects of one's own.
forged = SCRATCH + "/forged"
for number, target in enumerate(["/" + SECRET, "/store/" + SECRET, "/../" + SECRET, "/nix/store/" + SECRET, SECRET, "..", "/.."]):
    for space in ["trusted", "user"]:
        layer = "%s/%d%s" % (forged, number, space)
        os.makedirs(layer + "/store/x")
        try:
            for below in ["/x", "/store/x"]:
                os.makedirs(layer + below, exist_ok=True)
                os.setxattr(layer + below, space + ".overlay.redirect", target.encode())
        except OSError:
            pass
        for more in [[], [(b"redirect_dir", b"on")], [(b"redirect_dir", b"follow"), (b"metacopy", b"on")]]:
            options = more + ([(b"userxattr", None)] if space == "user" else [])

            def nested():
                context = call(FSOPEN, b"overlay", 0)
                call(FSCONFIG, context, SET_STRING, b"lowerdir", (layer + ":/nix").encode(), 0)
                for key, value in options:
                    call(FSCONFIG, context, SET_FLAG if value is None else SET_STRING, key, value, 0)
                call(FSCONFIG, context, CREATE, None, None, 0)
                return call(FSMOUNT, context, 0, 0)

            attempt("nested overlay", nested)
            for below in ["x", "store/x"]:
                try:
                    top = nested()
                    names = os.listdir(os.open(below, os.O_RDONLY, dir_fd=top))
                    if "key" in names or SECRET in names:
                        print("redirected", target, names)
                except OSError:
                    pass


# Handles: the view's own, others of the same form, those of the host.
def by_handle(kind, data):
    handle = Handle(len(data), kind, (ctypes.c_ubyte * 128)(*data))
    fd = libc.open_by_handle_at(nix, ctypes.byref(handle), os.O_RDONLY)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "open_by_handle_at")
    return fd


def own_handle(path, flags):
    handle, mount = Handle(128), ctypes.c_int()
    if libc.name_to_handle_at(AT_FDCWD, path, ctypes.byref(handle), ctypes.byref(mount), flags):
        raise OSError(ctypes.get_errno(), "name_to_handle_at")
    return handle


nix = directory("/nix")
for path in [b"/nix", b"/nix/..", b"/nix/store"]:
    # AT_HANDLE_FID gives one that serves comparison alone.
    for flags in [0, 0x200]:

        def opened_by_own_handle():
            handle = own_handle(path, flags)
            return by_handle(handle.type, bytes(handle.bytes[: handle.length]))

        attempt("own handle", opened_by_own_handle)
for handle in HANDLES:
    kind, data = handle.split(":")
    for kind in [int(kind), 1, 2, 0x81, 0xF8, 0xFB, 0xFE]:
        for size in [len(data) // 2, 8, 12]:
            attempt("handle", lambda: by_handle(kind, bytes.fromhex(data)[:size]))

# Redirects in the upper: no container can make one that is obeyed, now or after the next mount.
for space in ["trusted.overlay.redirect", "trusted.overlay.overlay.redirect", "user.overlay.redirect"]:
    for number, target in enumerate(["/" + SECRET, "/nix/store/" + SECRET, "/../" + SECRET]):
        path = "/nix/store/forged-%s-%d" % (space, number)
        os.makedirs(path, exist_ok=True)
        try:
            os.setxattr(path, space, target.encode())
            os.setxattr(path, space.replace("redirect", "opaque"), b"n")
        except OSError:
            pass
        os.rename(path, path + "-moved")
        os.rename(path + "-moved", path)
for name in os.listdir("/nix/store"):
    if name.startswith("forged-") and os.listdir("/nix/store/" + name):
        print("obeyed", name)

# What the mount tells.
told = [line for line in open("/proc/self/mountinfo") if line.split()[4] == "/nix"]
for line in told:
    layers = line.split(" - ")[1]
    if any(word in layers for word in ["/tmp", "/proc", "/var", "/nix/store", SECRET, "state"]):
        print("told", line)
print("tried", len(tried), len(told), sorted(set(tried)))
