"""How several machines find each other: which one holds the rendezvous, and by which address each
is reached.

torch.distributed.run guesses both from host names, which stock Ubuntu maps to 127.0.1.1; asking the
routing table is surer. Nothing here is needed on a single machine.
"""

import os
import socket
import sys
import threading
import time
from datetime import timedelta

PATIENCE = 60  # seconds for the machine that holds the rendezvous to come up


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """("10.0.0.1", 29500) of "10.0.0.1:29500"; ValueError says what is wrong with it."""
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(
            f"--rdzv-endpoint {endpoint!r}: give host:port of one of the machines, such as "
            "10.0.0.1:29500"
        )
    try:
        return socket.gethostbyname(host), int(port)
    except OSError as error:
        raise ValueError(
            f"--rdzv-endpoint {endpoint}: no machine {host!r} is known here ({error})"
        ) from None


def own_address(host: str, port: int) -> str:
    """The address by which this machine is reached from that one; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, port))
        except OSError as error:
            raise ValueError(
                f"--rdzv-endpoint {host}:{port}: there is no way to it ({error.strerror})"
            ) from None
        return probe.getsockname()[0]


def is_own(host: str) -> bool:
    """Whether an address is one of this machine's."""
    with socket.socket() as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
        return True


def interface_of(address: str) -> str | None:
    """The network interface with an address, such as "eth0"; None if there is none."""
    import psutil  # comes with ipykernel

    found = psutil.net_if_addrs().items()
    return next(
        (name for name, entries in found if any(entry.address == address for entry in entries)),
        None,
    )


def meet(endpoint: str) -> list[str]:
    """The arguments of torch.distributed.run by which machines meet at host:port.

    Gloo is told its interface through GLOO_SOCKET_IFNAME, unless that is set. Raises ValueError for
    an endpoint that can't work, ConnectionError if no rendezvous answers there.
    """
    host, port = split_endpoint(endpoint)
    address, held_here = own_address(host, port), is_own(host)
    if address.startswith("127."):
        raise ValueError(
            f"--rdzv-endpoint {endpoint} is {host}, which only this machine itself can reach: "
            "name the address that the other machines know it by"
        )
    if held_here:
        check_free(port)
    else:
        check_rendezvous(host, port)
        threading.Thread(target=watch_rendezvous, args=(host, port), daemon=True).start()
    if name := interface_of(address):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    return [
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={host}:{port}",
        f"--rdzv-conf=is_host={int(held_here)}",
        f"--local-addr={address}",
    ]


def check_free(port: int) -> None:
    """Raise ValueError if another program listens on a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise ValueError(
                f"port {port} can't be used on this machine ({error.strerror}): choose another for "
                "--rdzv-endpoint, the same on all machines"
            ) from None


def check_rendezvous(host: str, port: int, seconds: float = PATIENCE) -> None:
    """Wait until the machine that holds the rendezvous answers; ConnectionError after so many
    seconds.

    In a thread of its own: a client that has reached another program's port waits for ever, in C++.
    """
    from torch.distributed import TCPStore

    answered = threading.Event()

    def ask() -> None:
        try:
            TCPStore(host, port, is_master=False, timeout=timedelta(seconds=seconds)).num_keys()
        except RuntimeError:
            return
        answered.set()

    threading.Thread(target=ask, daemon=True).start()
    if not answered.wait(seconds):
        raise ConnectionError(
            f"no rendezvous has answered at {host}:{port} for {seconds:.0f} seconds: start the "
            "same "
            "command there, and see that no other program has the port"
        ) from None


def watch_rendezvous(host: str, port: int, seconds: float = PATIENCE / 2) -> None:
    """End this process when nobody has listened at host:port for so long; for a thread of its own.

    torch's agent would wait five minutes and more for a rendezvous that has vanished. Its workers
    notice by themselves (helpers/engine/heartbeat.py).
    """
    answered = time.monotonic()
    while time.monotonic() - answered < seconds:
        try:
            socket.create_connection((host, port), timeout=5).close()
            answered = time.monotonic()
        except OSError:
            pass
        time.sleep(5)
    print(
        f"helpers.run.launch: the machine that holds the rendezvous, {host}:{port}, has not "
        f"answered for {seconds:.0f} "
        "seconds",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)
