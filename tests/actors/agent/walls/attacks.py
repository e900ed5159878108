"""A program that tries what its task says, within walls that it would like to leave; standard library only.

Its answer says what it got: nothing, if the walls are whole.
"""

import ctypes
import json
import mmap
import os
import signal
import socket
import sys
import time
import urllib.request


def read(task):
    """Files of the machine that runs it, and of other attempts."""
    return [path for path in task["paths"] if _opens(path)]


def list_all(task):
    """Whatever has one of these names, wherever it can look."""
    found = []
    for folder, folders, files in os.walk("/"):
        folders[:] = [name for name in folders if os.path.join(folder, name) not in ("/proc", "/usr")]
        found += [os.path.join(folder, name) for name in [*folders, *files] if name in task["names"]]
    return found


def see(task):
    return dict(os.environ)


def reach(task):
    """Addresses, by TCP and by UDP, and sockets in files and without."""
    reached = []
    for host, port in task["addresses"]:
        try:
            socket.create_connection((host, port), timeout=2).close()
            reached.append([host, port])
        except OSError:
            continue
    for name in task.get("sockets", []):
        try:
            socket.socket(socket.AF_UNIX).connect("\0" + name[1:] if name[0] == "@" else name)
            reached.append(name)
        except OSError:
            continue
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"?", ("1.1.1.1", 53))
        reached.append("udp")
    except OSError:
        pass
    return reached


def call(task):
    """What it may reach."""
    urls = [os.environ["OPENAI_BASE_URL"] + "/models", os.environ["AL_RAY_SERVICE_SEARCH_URL"] + "/health"]
    return [urllib.request.urlopen(url).status for url in urls]


def meddle(task):
    """With processes of others, with its guard, and with what limits it."""
    done = []
    for pid in (task["pid"], 1):
        try:
            os.kill(pid, signal.SIGKILL)
            time.sleep(0.3)
            if pid != 1:
                done.append("killed another")
        except OSError:
            continue
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, 1, 0, 0) == 0:
        done.append("traced its guard")
    for flag, name in ((0x10000000, "user"), (0x00020000, "mount"), (0x40000000, "network")):
        if libc.unshare(flag) == 0:
            done.append(f"made a {name} namespace")
    if libc.mount(b"proc", b"/tmp", b"proc", 0, None) == 0:
        done.append("mounted")
    if os.path.exists("/al_ray/control.sock"):
        leash = socket.socket(socket.AF_UNIX)
        leash.connect("/al_ray/control.sock")
        if leash.recv(1):
            done.append("held its own leash")
    return done


def write(task):
    """Where it was given nothing to write in."""
    written = []
    for folder in ("/", "/agent", "/al_ray", "/usr", "/etc", "/dev", "/mounted"):
        try:
            with open(os.path.join(folder, "written"), "w") as file:
                file.write("x")
            written.append(folder)
        except OSError:
            continue
    try:
        os.unlink("/al_ray/gateway.sock")
        written.append("unlinked")
    except OSError:
        pass
    return written


def fork_without_end(task):
    while True:
        try:
            os.fork()
        except OSError:
            time.sleep(0.01)


def take_memory(task):
    taken = []
    while True:
        taken.append(bytearray(2**20))


def take_nameless_memory(task):
    """By files that no folder holds, and by pages that are shared."""
    taken = []
    while True:
        file = os.memfd_create("x")
        os.write(file, b"x" * 2**20)
        pages = mmap.mmap(-1, 2**20)
        pages.write(b"x" * 2**20)
        taken += [file, pages]


def fill_disk(task):
    """Everywhere; says how many MiB there was room for."""
    room = 0
    for folder in ("/work", "/tmp", "/dev/shm"):
        try:
            with open(os.path.join(folder, "x"), "wb", buffering=0) as file:
                while file.write(b"x" * 2**20):
                    room += 1
        except OSError:
            continue
    return room


def take_time(task):
    while True:
        pass


def outlive(task):
    """Two forks and a session away, deaf to SIGTERM."""
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0:
            time.sleep(1000)
        time.sleep(1000)
    return None


def clean_up(task):
    """When it is told to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("cleaned up", flush=True)))
    time.sleep(1000)


def hang(task):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(1000)


def _opens(path):
    try:
        with open(path, "rb") as file:
            file.read(1)
        return True
    except OSError:
        return False


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    print(json.dumps({"reward": 1.0, "got": globals()[asked["do"]](asked)}))
