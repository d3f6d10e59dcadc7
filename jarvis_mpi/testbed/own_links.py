"""Join hosts of one's own to a bridge, and make their links slow, late, lossy or silent."""

import os
import signal
import subprocess
import sys

from . import radio
from .own_processes import AIR, PREFIX, address, name, proc_file, processes, sh, until


def join(host: int) -> None:
    """Make a host's namespace, joined to the bridge."""
    own, air = f"{PREFIX}e{host}", f"{PREFIX}p{host}"
    sh(f"ip netns add {name(host)}")
    sh(f"ip link add {own} netns {name(host)} type veth peer name {air} netns {AIR}")
    sh(f"ip -n {name(host)} addr add {address(host)}/24 dev {own}")
    sh(f"ip -n {name(host)} addr add fd98::{10 + host}/64 dev {own} nodad")
    for device in (own, "lo"):
        sh(f"ip -n {name(host)} link set {device} up")
    sh(f"ip -n {AIR} link set {air} up")


def devices() -> set[str]:
    """The network devices beside the common bridge."""
    return {line.split()[0].partition("@")[0] for line in sh(f"ip -n {AIR} -br link show").splitlines()}


def cut(host: int) -> None:
    """Take a host off the bridge: its own end stays up, so nobody is told."""
    sh(f"ip -n {AIR} link set {PREFIX}p{host} nomaster")


def mend(host: int) -> None:
    """Put a host back on the bridge, or on its own bridge, where its link is a bad one."""
    own = f"{PREFIX}b{host}"
    bad = own in devices()
    sh(f"ip -n {AIR} link set {PREFIX}p{host} master {own if bad else 'br0'}")


def rate(host: int, limit: str) -> None:
    """Limit a host's link both ways, in tc's words (5mbit); "none" takes the limit away."""
    for space, device in (name(host), f"{PREFIX}e{host}"), (AIR, f"{PREFIX}p{host}"):
        sh(f"tc -n {space} qdisc del dev {device} root", check=False)
        if limit != "none":
            sh(f"tc -n {space} qdisc add dev {device} root tbf rate {limit} burst 16kb latency 300ms")


def air(host: int, delay_ms: float, loss_percent: float) -> None:
    """Put a bridge of its own and two TAPs between a host's link and the common bridge: radio.py carries
    frames between them."""
    own, outer, inner = (f"{PREFIX}{kind}{host}" for kind in "bxy")
    for pid in processes(AIR):
        if outer in proc_file(pid, "cmdline").split("\0"):
            os.kill(pid, signal.SIGKILL)  # the TAPs go with it
    until(lambda: not {outer, inner} & devices(), f"{outer} and {inner} do not go")
    sh(f"ip -n {AIR} link del {own}", check=False)
    if delay_ms or loss_percent:
        sh(f"ip -n {AIR} link add {own} type bridge")
        words = [outer, inner, str(delay_ms / 1e3), str(loss_percent / 1e2), str(host)]
        subprocess.Popen(
            ["ip", "netns", "exec", AIR, sys.executable, "-P", radio.__file__, *words],
            start_new_session=True,
        )
        until(lambda: inner in devices(), f"no TAP device {inner} for {name(host)}: is there a /dev/net/tun?")
        for device, bridge in (outer, own), (inner, "br0"):
            sh(f"ip -n {AIR} link set {device} master {bridge}")
        for device in own, outer, inner:
            sh(f"ip -n {AIR} link set {device} up")
    mend(host)
