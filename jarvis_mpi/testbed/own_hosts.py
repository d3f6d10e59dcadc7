"""Make hosts of one's own on one machine (Linux, root, sshd), to rehearse a testbed and to break it.

A host is a network namespace whose one link ends at a common bridge, with processes, mounts, /tmp, /dev/shm,
a name and a boot id of its own, and a real sshd that knows one key, made for the purpose. Traffic cannot
leave the bridge. The file system is shared, as if the same were installed everywhere.
"""

import shutil
import subprocess
import sys
import uuid
from pathlib import Path

from .own_links import cut, join, mend
from .own_processes import AIR, PREFIX, STATE, address, every_host, kill, lacking, name, sh, until

NEEDED = ("ip", "unshare", "nsenter", "sshd", "ssh-keygen")


def missing() -> str:
    """'' if hosts can be made here, else one sentence that says what is in the way."""
    if why := lacking("hosts need", NEEDED, "openssh-server iproute2 util-linux"):
        return why
    if subprocess.run(["ip", "netns", "add", f"{PREFIX}probe"], capture_output=True).returncode:
        return "hosts need network namespaces, and none can be made here"
    sh(f"ip netns del {PREFIX}probe")
    return ""


def up(count: int, *shared: Path) -> Path:
    """Make hosts 0 to `count`, which see the folders `shared` of /tmp. -> a hostfile, one slot each."""
    down()
    STATE.mkdir(mode=0o700)
    (STATE / "shared").write_text("".join(f"{folder}\n" for folder in shared))
    everyone = range(count + 1)
    write_ssh_files(everyone)
    hostfile = STATE / "hostfile"
    hostfile.write_text("".join(f"{name(host)} slots=1\n" for host in everyone))
    sh(f"ip netns add {AIR}")
    sh(f"ip -n {AIR} link add br0 type bridge")
    sh(f"ip -n {AIR} link set br0 up")
    for host in everyone:
        join(host)
        boot(host, wait=False)
    for host in everyone:
        await_sshd(host)
    return hostfile


def write_ssh_files(everyone: range) -> None:
    """One key for all, the names of all, and configurations that know them."""
    sh(f"ssh-keygen -q -t ed25519 -N '' -f {STATE}/key")
    sh(f"ssh-keygen -q -t ed25519 -N '' -f {STATE}/host_key")
    shutil.copy(STATE / "key.pub", STATE / "authorized_keys")
    table = [f"{ip} {name(host)}" for host in everyone for ip in (address(host), f"fd98::{10 + host}")]
    (STATE / "hosts").write_text("\n".join(["127.0.0.1 localhost", "::1 localhost", *table, ""]))
    (STATE / "sshd_config").write_text(
        f"HostKey {STATE}/host_key\nAuthorizedKeysFile {STATE}/authorized_keys\nStrictModes no\nUsePAM no\n"
        "PermitRootLogin yes\nPasswordAuthentication no\nPidFile none\n"
    )
    (STATE / "ssh_config").write_text(
        f"Host *\n  IdentityFile {STATE}/key\n  UserKnownHostsFile {STATE}/known_hosts\n  HashKnownHosts no\n"
    )
    public = " ".join((STATE / "host_key.pub").read_text().split()[:2])
    known = [f"{name(host)},{address(host)},fd98::{10 + host} {public}\n" for host in everyone]
    (STATE / "known_hosts").write_text("".join(known))


def boot(host: int, wait: bool = True) -> None:
    """Start what a host consists of: its first process is sshd."""
    mend(host)
    root = STATE / name(host)
    shutil.rmtree(root, ignore_errors=True)
    (root / "tmp").mkdir(parents=True)
    (root / "boot_id").write_text(f"{uuid.uuid4()}\n")
    binds: list[tuple[Path, str | Path]] = [
        (STATE / "hosts", "/etc/hosts"),
        (STATE / "ssh_config", "/etc/ssh/ssh_config"),
        (root / "boot_id", "/proc/sys/kernel/random/boot_id"),
    ]
    for folder in installed_folders():  # seen on every host, at the same path
        (root / folder.relative_to("/")).mkdir(parents=True, exist_ok=True)
        binds.insert(0, (folder, root / folder.relative_to("/")))
    script = [
        "mount --make-rprivate /",
        "mount -t proc proc /proc",
        "mount -t tmpfs tmpfs /dev/shm",
        *(f"mount --rbind {source} {target}" for source, target in binds),
        f"mount --rbind {root}/tmp /tmp",
        f"hostname {name(host)}",
        "mkdir -p /run/sshd",
        f"exec {shutil.which('sshd')} -D -e -f {STATE}/sshd_config",
    ]
    apart = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"]
    with (STATE / f"{name(host)}.log").open("ab") as log:
        subprocess.Popen(
            ["ip", "netns", "exec", name(host), *apart, "sh", "-c", " && ".join(script)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    if wait:
        await_sshd(host)


def installed_folders() -> set[Path]:
    """Folders right under /tmp with Python, its packages, this checkout or something shared in them."""
    shared = (STATE / "shared").read_text().splitlines()
    paths = (
        Path(path).resolve() for path in (*sys.path, sys.prefix, sys.base_prefix, __file__, ".", *shared)
    )
    return {Path(*path.parts[:3]) for path in paths if path.parts[1:2] == ("tmp",) and len(path.parts) > 2}


def await_sshd(host: int) -> None:
    log = STATE / f"{name(host)}.log"
    until(lambda: ":22 " in sh(f"ip netns exec {name(host)} ss -ltn"), f"{name(host)} has no sshd: see {log}")


def off(*chosen: int) -> None:
    """Power off: cut, then kill."""
    for host in chosen:
        cut(host)
    kill(*chosen)


def down() -> None:
    """Remove everything. Found by the names' prefix: it needs no memory of what was made."""
    kill(*every_host(), AIR)
    for space in [*map(name, every_host()), AIR]:
        sh(f"ip netns del {space}", check=False)
    shutil.rmtree(STATE, ignore_errors=True)
