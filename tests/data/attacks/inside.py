"""Attacks on a view, run in it: `inside.py CASE ARGUMENTS...`; fails at the first that comes out wrong."""

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import struct
import subprocess
import sys

libc = ctypes.CDLL(None, use_errno=True)
with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
    OVERLAYFS = any(" /nix " in line and " - overlay " in line for line in mounts)
AT_FDCWD, RENAME_EXCHANGE, RENAME_WHITEOUT = -100, 2, 4


def outcome(call, *arguments):
    """What a call comes to: the name of its errno, or 'ok'."""
    try:
        call(*arguments)
        return "ok"
    except OSError as error:
        return errno.errorcode[error.errno]


def foreign(call, *arguments):
    answer = call(*arguments)
    return answer if answer >= 0 else errno.errorcode[ctypes.get_errno()]


def rename(old, new, flags):
    return foreign(libc.renameat2, AT_FDCWD, old.encode(), AT_FDCWD, new.encode(), flags)


def expect(what, got, *wanted):
    assert got in wanted, f"{what}: {got}, not {' or '.join(map(str, wanted))}"


def write(path, flags):
    fd = os.open(path, flags)
    os.write(fd, b"EVIL")
    os.close(fd)


def lower(scratch, *files):
    """Every way to write into files of the store: eight files of it, one for each way."""
    appended, truncated, mapped, linked, metadata, exchanged, sent, reader = files
    os.mkdir(scratch)
    write(appended, os.O_RDWR | os.O_APPEND)
    write(truncated, os.O_WRONLY | os.O_TRUNC)
    fd = os.open(mapped, os.O_RDWR)
    with mmap.mmap(fd, 0) as memory:
        memory[:4] = b"EVIL"
    expect("punch a hole", foreign(libc.fallocate, fd, 3, 0, 4), 0, "EOPNOTSUPP")
    expect("allocate", outcome(os.posix_fallocate, fd, 0, 4096), "ok", "EOPNOTSUPP")
    os.close(fd)
    os.link(linked, scratch + "/link")
    write(scratch + "/link", os.O_WRONLY)
    with open(linked, "rb") as file:
        assert file.read(4) == b"EVIL", "the two names of a linked file differ"
    os.chmod(metadata, 0o6777)
    os.chown(metadata, 12345, 12345)
    os.utime(metadata, (5, 5))
    os.setxattr(metadata, "user.mine", b"x")
    expect("exchange", rename(exchanged, metadata, RENAME_EXCHANGE), 0)
    expect("a whiteout by rename", rename(metadata, scratch + "/moved", RENAME_WHITEOUT), "EINVAL")
    source, target = os.open(scratch + "/link", os.O_RDONLY), os.open(sent, os.O_WRONLY)
    os.copy_file_range(source, target, 4)
    os.sendfile(target, source, 0, 4)
    os.close(target)

    fd = os.open(reader, os.O_RDONLY)
    before = os.pread(fd, 4096, 0)
    expect("write", outcome(os.write, fd, b"EVIL"), "EBADF")
    expect("truncate", outcome(os.ftruncate, fd, 0), "EINVAL")
    expect("allocate", outcome(os.posix_fallocate, fd, 0, 10), "EBADF")
    expect("map", outcome(mmap.mmap, fd, 0, mmap.MAP_SHARED, mmap.PROT_WRITE), "EACCES")
    # FS_IOC_GETFLAGS, SETFLAGS, FIEMAP, FICLONE, FSGETXATTR, FSSETXATTR, FITRIM, FS_IOC_ENABLE_VERITY
    for request in 0x80086601, 0x40086602, 0xC020660B, 0x40049409, 0x801C581F, 0x401C5820, 0xC0185879, 0x40806685:
        answer = outcome(fcntl.ioctl, fd, request, b"\0" * 128)
        # overlayfs passes some of them on to a copy, or to what can only be read.
        if not OVERLAYFS:
            expect(hex(request), answer, "ENOTTY", "ENOTSUP", "EBADF")
    again = f"/proc/self/fd/{fd}"
    expect("reopen for writing", outcome(write, again, os.O_RDWR), "ok", "ESTALE")
    expect("truncate a reopened file", outcome(os.truncate, again, 0), "ok", "ESTALE")
    assert os.pread(fd, 4096, 0) in (before, b"EVIL" + before[4:], b""), "a reader sees what nobody wrote"


def marks(directory, *targets):
    """What an upper uses to mark whiteouts and opaque directories, made by a user: allowed, and without effect."""
    os.mkdir(directory)
    with open(directory + "/file", "w", encoding="ascii") as file:
        file.write("x")
    words = "opaque", "whiteout", "redirect", "metacopy", "origin", "overlay.opaque"
    names = [f"{space}.overlay.{word}" for space in ("trusted", "user") for word in words]
    for name in (*names, "trusted.nixview.origin", "user.nixview.origin"):
        for path in (directory, directory + "/file", *targets):
            assert name not in os.listxattr(path), f"{name} is there"
            expect(f"get {name}", outcome(os.getxattr, path, name), "ENODATA")
            os.setxattr(path, name, b"y", os.XATTR_CREATE)
            assert os.getxattr(path, name) == b"y" and name in os.listxattr(path), f"{name} is lost"
    for path in (directory + "/zero", os.path.dirname(directory) + "/zero"):
        if OVERLAYFS:
            expect("make a whiteout", outcome(os.mknod, path, stat.S_IFCHR | 0o666, os.makedev(0, 0)), "EPERM")
            continue
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(0, 0))
        found = os.stat(path)
        assert stat.S_ISCHR(found.st_mode) and found.st_rdev == 0, f"{path} is something else"
        expect("open a device 0:0", outcome(os.open, path, os.O_RDWR), "EACCES")
    for name in ".wh.file", ".wh..wh..opq", ".wh.":
        expect(name, outcome(os.mkdir, f"{directory}/{name}"), "ok", "EPERM", "EINVAL")
    for name, kind in ("null", stat.S_IFCHR), ("block", stat.S_IFBLK):
        device = f"{directory}/{name}"
        expect("make a device", outcome(os.mknod, device, kind | 0o666, os.makedev(1, 3)), "ok" if OVERLAYFS else "EPERM")
        expect("open a device", outcome(os.open, device, os.O_RDWR), "EACCES" if OVERLAYFS else "ENOENT")
    os.mkfifo(directory + "/fifo")


def handles(handle, *paths):
    """File handles of the host's, and forged ones, opened in the view."""
    host = ctypes.create_string_buffer(bytes.fromhex(handle))
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        expect("a handle of the host", foreign(libc.open_by_handle_at, fd, host, os.O_RDONLY), "ESTALE")
        number = os.stat(path).st_ino
        for kind in 1, 2, 0x81, 0x82:
            for node in *range(32), number, number ^ 1, 1 << 63, (1 << 64) - 1:
                for generation in 0, 1, 2:
                    forged = struct.pack("=IIQIQI", 24, kind, node, generation, node, generation)
                    answer = foreign(libc.open_by_handle_at, fd, forged, os.O_PATH)
                    if isinstance(answer, int):
                        shown = os.readlink(f"/proc/self/fd/{answer}")
                        assert shown.startswith("/nix"), f"a forged handle opens {shown}"
                        os.close(answer)
                    else:
                        expect("a forged handle", answer, "ESTALE")


def handle_of(path):
    """Prints a file's handle, for `handles`."""
    buffer = ctypes.create_string_buffer(8 + 128)
    struct.pack_into("=II", buffer, 0, 128, 0)
    mount = ctypes.c_int()
    expect("name_to_handle_at", foreign(libc.name_to_handle_at, AT_FDCWD, path.encode(), buffer, ctypes.byref(mount), 0), 0)
    print(buffer.raw[: 8 + struct.unpack_from("=I", buffer)[0]].hex())


def processes(file, program, *hosts):
    """What /proc tells of a process that runs a copy of cat(1) in the view and of one that has a file of it open and mapped: nothing of the host's names."""
    child = subprocess.Popen([program, "-u"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    try:
        # It runs, and not what was there before.
        child.stdin.write(b"x")
        expect("an echo", child.stdout.read(1), b"x")
        told_of(child.pid, file, program, hosts)
    finally:
        child.kill()
        child.wait()


def told_of(child, file, program, hosts):
    opened = os.open(file, os.O_RDONLY)
    with mmap.mmap(opened, 0, mmap.MAP_SHARED, mmap.PROT_READ):
        os.chdir(os.path.dirname(file))
        told = []
        for pid, wanted in (child, program), (os.getpid(), file):
            proc = f"/proc/{pid}"
            with open(proc + "/maps", encoding="utf-8") as maps:
                lines = maps.readlines()
            areas = [line.split()[0] for line in lines if line.rstrip().endswith(wanted)]
            assert areas, f"{wanted} is not in {proc}/maps: {lines}"
            for area in areas:
                start, end = (int(number, 16) for number in area.split("-"))
                expect("a mapping's name", os.readlink(f"{proc}/map_files/{start:x}-{end:x}"), wanted)
            told.extend(lines)
            for name in os.listdir(proc + "/fdinfo"):
                for tell in (lambda: open(f"{proc}/fdinfo/{name}", encoding="utf-8").read(), lambda: os.readlink(f"{proc}/fd/{name}")):
                    try:
                        told.append(tell())
                    except FileNotFoundError:
                        pass  # that of the listing
            told.extend(os.readlink(f"{proc}/{name}") for name in ("exe", "cwd", "root"))
    expect("a program's name", os.readlink(f"/proc/{child}/exe"), program)
    expect("a file's name", os.readlink(f"/proc/self/fd/{opened}"), file)
    expect("a directory's name", os.readlink("/proc/self/cwd"), os.path.dirname(file))
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        views = [line for line in mounts if line.split()[4] == "/nix"]
    with open(f"/proc/self/fdinfo/{opened}", encoding="utf-8") as info:
        mount = [line.split()[1] for line in info if line.startswith("mnt_id:")]
    expect("the mount of a file", mount[0], views[-1].split()[0])
    for line in told + views:
        for host in hosts:
            assert host not in line, f"{line} tells of {host}"


CASES = {"lower": lower, "marks": marks, "handles": handles, "handle_of": handle_of, "processes": processes}
CASES[sys.argv[1]](*sys.argv[2:])
