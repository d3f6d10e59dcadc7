"""Hosts of your own on one machine (Linux, root, sshd): rehearse a testbed, and break it.

    python tests/hosts/hosts.py up 4             jv0, where you sit, and jv1 .. jv4; prints the hostfile's path
    python tests/hosts/hosts.py run 0 COMMAND... on a host, in this folder, with this environment
    python tests/hosts/hosts.py cut 2            its link is silent from now on, and nobody is told
    python tests/hosts/hosts.py mend 2
    python tests/hosts/hosts.py kill 3           every process on it dies at once; its link stays
    python tests/hosts/hosts.py off 3            power off: cut, then kill
    python tests/hosts/hosts.py boot 3           a killed host comes back, mended, with sshd and nothing else
    python tests/hosts/hosts.py rate 2 5mbit     of its link, both ways; "none" takes the limit away
    python tests/hosts/hosts.py air 2 50 5       what leaves it takes 50 ms, and 5 % of it never comes; "0 0": a wire
    python tests/hosts/hosts.py down             everything goes, whatever state it is in

A host is a network namespace whose one link ends at a common bridge, with processes, mounts, /tmp, /dev/shm,
a name and a boot id of its own, and a real sshd that knows one key, made for the purpose. Traffic cannot
leave the bridge. The file system is shared, as if the same were installed everywhere.
"""

import contextlib
import itertools
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

PREFIX = "jv"
AIR = f"{PREFIX}air"  # the namespace of the bridge
STATE = Path("/run/jarvis_hosts")  # keys, configurations, logs
NEEDED = ("ip", "unshare", "nsenter", "sshd", "ssh-keygen")
WAIT_S = 10.0


def missing() -> str:
    """'' if hosts can be made here, else one sentence that says what is in the way."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "hosts need Linux and root"
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if lacking := [tool for tool in NEEDED if not shutil.which(tool)]:
        return f"hosts need {', '.join(lacking)}: apt-get install openssh-server iproute2 util-linux"
    if subprocess.run(["ip", "netns", "add", f"{PREFIX}probe"], capture_output=True).returncode:
        return "hosts need network namespaces, and none can be made here"
    sh(f"ip netns del {PREFIX}probe")
    return ""


def sh(command: str, check: bool = True) -> str:
    done = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=30)
    if check and done.returncode:
        raise SystemExit(f"{command}: {done.stderr.strip()}")
    return done.stdout


def name(host: int) -> str:
    return f"{PREFIX}{host}"


def address(host: int) -> str:
    return f"10.98.0.{10 + host}"


def hosts() -> list[int]:
    words = (line.split()[0] for line in sh("ip netns list").splitlines() if line.strip())
    return sorted(int(word[len(PREFIX) :]) for word in words if word[len(PREFIX) :].isdigit())


def up(count: int, *shared: Path) -> Path:
    """Make hosts 0 to `count`, which see the folders `shared` of /tmp. -> a hostfile, one slot each."""
    down()
    STATE.mkdir(mode=0o700)
    (STATE / "shared").write_text("".join(f"{folder}\n" for folder in shared))
    sh(f"ssh-keygen -q -t ed25519 -N '' -f {STATE}/key")
    sh(f"ssh-keygen -q -t ed25519 -N '' -f {STATE}/host_key")
    shutil.copy(STATE / "key.pub", STATE / "authorized_keys")
    everyone = range(count + 1)
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
    hostfile = STATE / "hostfile"
    hostfile.write_text("".join(f"{name(host)} slots=1\n" for host in everyone))
    sh(f"ip netns add {AIR}")
    sh(f"ip -n {AIR} link add br0 type bridge")
    sh(f"ip -n {AIR} link set br0 up")
    for host in everyone:
        link(host)
        boot(host, wait=False)
    for host in everyone:
        await_sshd(host)
    return hostfile


def link(host: int) -> None:
    """Its namespace, joined to the bridge."""
    here, there = f"{PREFIX}e{host}", f"{PREFIX}p{host}"
    sh(f"ip netns add {name(host)}")
    sh(f"ip link add {here} netns {name(host)} type veth peer name {there} netns {AIR}")
    sh(f"ip -n {name(host)} addr add {address(host)}/24 dev {here}")
    sh(f"ip -n {name(host)} addr add fd98::{10 + host}/64 dev {here} nodad")
    for device in (here, "lo"):
        sh(f"ip -n {name(host)} link set {device} up")
    sh(f"ip -n {AIR} link set {there} up")


def boot(host: int, wait: bool = True) -> None:
    """Start what a host consists of: its first process is sshd."""
    mend(host)
    root = STATE / name(host)
    shutil.rmtree(root, ignore_errors=True)
    (root / "tmp").mkdir(parents=True)
    (root / "boot_id").write_text(f"{uuid.uuid4()}\n")
    binds = [
        (STATE / "hosts", "/etc/hosts"),
        (STATE / "ssh_config", "/etc/ssh/ssh_config"),
        (root / "boot_id", "/proc/sys/kernel/random/boot_id"),
    ]
    for folder in kept():  # what is installed under /tmp is seen on every host, at the same path
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


def kept() -> set[Path]:
    """Folders right under /tmp with Python, its packages, this checkout or something shared in them."""
    shared = (STATE / "shared").read_text().splitlines()
    paths = (
        Path(path).resolve() for path in (*sys.path, sys.prefix, sys.base_prefix, __file__, ".", *shared)
    )
    return {Path(*path.parts[:3]) for path in paths if path.parts[1:2] == ("tmp",) and len(path.parts) > 2}


def await_sshd(host: int) -> None:
    log = STATE / f"{name(host)}.log"
    until(lambda: ":22 " in sh(f"ip netns exec {name(host)} ss -ltn"), f"{name(host)} has no sshd: see {log}")


def until(comes_true: Callable[[], bool], sentence: str) -> None:
    """Raises SystemExit with `sentence` where it does not within seconds."""
    end = time.monotonic() + WAIT_S
    while not comes_true():
        if time.monotonic() > end:
            raise SystemExit(sentence)
        time.sleep(0.02)


def processes(host: int | str) -> list[int]:
    """All on a host, by their numbers here; the first is the host's own process 1, if it is up."""
    found = map(int, sh(f"ip netns pids {host if host == AIR else name(int(host))}", check=False).split())
    return sorted(found, key=lambda pid: (number_on_host(pid) != 1, pid))


def busy(host: int) -> list[int]:
    """What runs on a host beside sshd, which goes on for minutes after a peer that is out of reach."""
    return [
        pid
        for pid in processes(host)
        if number_on_host(pid) > 1 and not proc_file(pid, "comm").startswith("sshd")
    ]


def proc_file(pid: int, what: str) -> str:
    """A file of the process's in /proc; '' once it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{what}").read_text()
    return ""


def number_on_host(pid: int) -> int:
    """A process's number on its host; 0 if it belongs to none."""
    numbers = next(
        (line.split()[1:] for line in proc_file(pid, "status").splitlines() if "NSpid" in line), []
    )
    return int(numbers[-1]) if len(numbers) > 1 else 0


def command(host: int, words: list[str]) -> list[str]:
    """What runs `words` on a host. Raises SystemExit if it is down."""
    first = next((pid for pid in processes(host) if number_on_host(pid) == 1), None)
    if first is None:
        raise SystemExit(f"{name(host)} is down: boot {host}")
    spaces = ["nsenter", "-t", str(first), "-m", "-u", "-i", "-n", "-p", f"--wdns={Path.cwd()}"]
    return [*spaces, *words]


def links() -> set[str]:
    """The network devices beside the common bridge."""
    return {line.split()[0].partition("@")[0] for line in sh(f"ip -n {AIR} -br link show").splitlines()}


def cut(host: int) -> None:
    """Off the bridge: the host's own end stays up, so nobody is told."""
    sh(f"ip -n {AIR} link set {PREFIX}p{host} nomaster")


def mend(host: int) -> None:
    own = f"{PREFIX}b{host}"  # its own bridge, where its link is a bad one
    bad = own in links()
    sh(f"ip -n {AIR} link set {PREFIX}p{host} master {own if bad else 'br0'}")


def kill(*chosen: int | str) -> None:
    """Every process of these hosts at once, their first processes first: each takes the others along."""
    found = [processes(host) for host in chosen]
    for pid in itertools.chain(*itertools.zip_longest(*found)):
        with contextlib.suppress(ProcessLookupError):
            if pid is not None:
                os.kill(pid, signal.SIGKILL)


def off(*chosen: int) -> None:
    for host in chosen:
        cut(host)
    kill(*chosen)


def rate(host: int, limit: str) -> None:
    for space, device in (name(host), f"{PREFIX}e{host}"), (AIR, f"{PREFIX}p{host}"):
        sh(f"tc -n {space} qdisc del dev {device} root", check=False)
        if limit != "none":
            sh(f"tc -n {space} qdisc add dev {device} root tbf rate {limit} burst 16kb latency 300ms")


def air(host: int, delay_ms: float, loss_percent: float) -> None:
    """Between a host's link and the common bridge: a bridge of its own, and two TAPs that air.py carries frames between."""
    own, outer, inner = (f"{PREFIX}{kind}{host}" for kind in "bxy")
    for pid in processes(AIR):
        if outer in proc_file(pid, "cmdline").split("\0"):
            os.kill(pid, signal.SIGKILL)  # the TAPs go with it
    until(lambda: not {outer, inner} & links(), f"{outer} and {inner} do not go")
    sh(f"ip -n {AIR} link del {own}", check=False)
    if delay_ms or loss_percent:
        sh(f"ip -n {AIR} link add {own} type bridge")
        words = [outer, inner, str(delay_ms / 1e3), str(loss_percent / 1e2), str(host)]
        subprocess.Popen(
            ["ip", "netns", "exec", AIR, sys.executable, Path(__file__).parent / "air.py", *words],
            start_new_session=True,
        )
        until(lambda: inner in links(), f"no TAP device {inner} for {name(host)}: is there a /dev/net/tun?")
        for device, bridge in (outer, own), (inner, "br0"):
            sh(f"ip -n {AIR} link set {device} master {bridge}")
        for device in own, outer, inner:
            sh(f"ip -n {AIR} link set {device} up")
    mend(host)


def down() -> None:
    """Found by the names' prefix: it needs no memory of what was made."""
    for host in [*hosts(), AIR]:
        kill(host)
    for space in [*map(name, hosts()), AIR]:
        sh(f"ip netns del {space}", check=False)
    shutil.rmtree(STATE, ignore_errors=True)


def main(words: list[str]) -> int:
    if why := missing():
        print(why, file=sys.stderr)
        return 1
    match words:
        case ["up", count] if count.isdigit():
            print(up(int(count)))
        case ["down"]:
            down()
        case ["list"]:
            for host in hosts():
                print(
                    name(host), address(host), f"{len(busy(host))} processes" if processes(host) else "down"
                )
        case ["run", host, *rest] if rest and host.isdigit():
            wanted = command(int(host), rest)
            os.execvp(wanted[0], wanted)
        case ["rate", host, limit] if host.isdigit():
            rate(int(host), limit)
        case ["air", host, delay_ms, loss_percent] if host.isdigit():
            air(int(host), float(delay_ms), float(loss_percent))
        case [("cut" | "mend" | "kill" | "off" | "boot") as deed, *chosen] if "".join(chosen).isdigit():
            for host in map(int, chosen):
                {"cut": cut, "mend": mend, "kill": kill, "off": off, "boot": boot}[deed](host)
        case _:
            print(__doc__ or f"see the head of {__file__}")  # python -OO has none
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
