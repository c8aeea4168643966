"""Ranks that learn at once when another one fails or dies.

Every rank keeps a connection to rank 0 open, over which nothing passes but last words: that a rank
leaves, as its work is done, or that it failed, and why; rank 0 passes the latter on. The system
closes the connections of a process that ends, however it ends. A rank that is slow, or stopped for
hours, keeps its connection, and is never taken for dead; nor is a machine that answers the probes
(TCP keepalive) that systems, not programs, send one another.
"""

import contextlib
import json
import os
import secrets
import selectors
import signal
import socket
import sys
import threading
from dataclasses import dataclass, field
from typing import Any

import torch.distributed as dist

GRACE = 3.0  # seconds in which a rank may end by itself, when another has failed
_PATIENCE = 10.0  # seconds for a connection, or for the end of a message
_GLANCE = 1.0  # seconds between two looks at the launcher
_LONGEST = 1 << 16  # bytes of a message
_KEY = "watch"  # in the store
# Probes begin after 20 quiet seconds and come every 10; a machine is gone after 6 without answer.
_PROBES = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}


@dataclass(frozen=True)
class Verdict:
    """How this rank has to end, since another one did: last line, and exit code."""

    line: str
    code: int


@dataclass
class _Peer:
    """Another rank, at the far end of a connection."""

    socket: socket.socket
    rank: int = -1  # -1: it has not said yet
    name: str = ""
    left: bool = False
    received: bytearray = field(default_factory=bytearray)

    def send(self, **message: Any) -> None:
        with contextlib.suppress(OSError):  # it has ended
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> tuple[list[dict[str, Any]], bool]:
        """Return the whole messages that have come, and whether the connection is open."""
        try:
            found = self.socket.recv(4096)
        except (BlockingIOError, TimeoutError):
            return [], True
        except OSError:
            found = b""
        self.received += found
        *lines, rest = self.received.split(b"\n")
        self.received = rest
        with contextlib.suppress(ValueError, RecursionError):
            messages = [message for message in map(json.loads, lines) if isinstance(message, dict)]
            return messages, bool(found) and len(rest) < _LONGEST
        return [], False


class Watch:
    """The connections of this rank, looked after by a thread.

    Args:
        store: store of all ranks.
        rank: index of this rank.
        host: host of rank 0.

    Attributes:
        advice: what to do after a rank has died, for the last line.
    """

    def __init__(self, store: dist.Store, rank: int, host: str) -> None:
        self.rank, self.advice = rank, ""
        self.verdict: Verdict | None = None
        self._known, self._handled = threading.Event(), threading.Event()
        self._left, self._selector = False, selectors.DefaultSelector()
        self._peers: list[_Peer] = []
        self._token, self._parent = "", os.getppid()
        (self._listen if rank == 0 else self._connect)(store, host)
        threading.Thread(target=self._look, name="rank watch", daemon=True).start()

    def _listen(self, store: dist.Store, host: str) -> None:
        here = host in ("127.0.0.1", "localhost", "::1")
        self._listener = socket.create_server(("127.0.0.1" if here else "", 0), backlog=1024)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        # Only who reads the store of the ranks may speak.
        self._token = secrets.token_hex(16)
        place = {"port": self._listener.getsockname()[1], "token": self._token}
        store.set(_KEY, json.dumps(place | {"name": _name()}))

    def _connect(self, store: dist.Store, host: str) -> None:
        place = json.loads(store.get(_KEY))
        try:
            connection = socket.create_connection((host, place["port"]), _PATIENCE)
        except OSError as error:  # a firewall: the launcher has to end the others then
            print(f"rank {self.rank}: cannot watch the other ranks: {error}", file=sys.stderr)
            return
        peer = self._add(connection)
        peer.rank, peer.name = 0, place["name"]
        peer.send(token=place["token"], rank=self.rank, name=_name())

    def _add(self, connection: socket.socket) -> _Peer:
        connection.settimeout(_PATIENCE)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _PROBES.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        peer = _Peer(connection)
        self._peers.append(peer)
        self._selector.register(connection, selectors.EVENT_READ, peer)
        return peer

    def _look(self) -> None:
        while not self._left:
            for key, _ in self._selector.select(_GLANCE):
                if key.data is None:
                    with contextlib.suppress(OSError):
                        self._add(self._listener.accept()[0])
                else:
                    self._hear(key.data)
            self._look_at_launcher()

    def _look_at_launcher(self) -> None:
        # torchrun dies of signals that it does not know, and leaves its ranks behind.
        if "TORCHELASTIC_RUN_ID" in os.environ and os.getppid() != self._parent:
            self._parent = os.getppid()
            os.kill(os.getpid(), signal.SIGTERM)

    def _hear(self, peer: _Peer) -> None:
        messages, is_open = peer.receive()
        for message in messages:
            if peer.rank < 0 and message.get("token") == self._token:  # never empty on rank 0
                peer.rank, peer.name = int(message["rank"]), str(message["name"])
            elif peer.rank >= 0 and message.get("leaves"):
                peer.left = True
            elif peer.rank >= 0 and "line" in message:
                peer.left = True
                self._conclude(Verdict(str(message["line"]), int(message["code"])), peer)
        if is_open:
            return
        self._selector.unregister(peer.socket)
        self._peers.remove(peer)
        peer.socket.close()
        if peer.rank >= 0 and not peer.left:
            died = f"error: rank {peer.rank} ({peer.name}) was killed or crashed"
            self._conclude(Verdict(died, 1), peer)

    def _conclude(self, verdict: Verdict, culprit: _Peer) -> None:
        for peer in self._peers if self.rank == 0 else []:
            if peer is not culprit and peer.rank >= 0:
                peer.send(line=verdict.line, code=verdict.code)
        if self.verdict or self._left:
            return
        self.verdict = verdict
        self._known.set()
        if self._handled.wait(GRACE) or self._left:
            return
        # The rank computes, or waits for the dead one. Its files are as whole as after a kill.
        with contextlib.suppress(Exception):
            sys.stderr.write(f"{self.last_line}\n")
            sys.stderr.flush()
        os._exit(verdict.code)

    @property
    def last_line(self) -> str:
        """The line of the verdict, with the advice where a rank has died without a word."""
        line = self.verdict.line if self.verdict else ""
        return f"{line}; {self.advice}" if self.advice and line.endswith("crashed") else line

    def wait_for_verdict(self, seconds: float) -> bool:
        """Return whether another rank has failed; its last words may take a moment to come."""
        return self._known.wait(seconds)

    def take_over(self) -> None:
        """Say that this rank ends by itself now."""
        self._handled.set()

    def tell(self, line: str, code: int) -> None:
        """Tell the other ranks that this one failed."""
        for peer in list(self._peers):
            peer.send(line=line, code=code)

    def leave(self) -> None:
        """Tell the other ranks that this one is done, and stop watching them."""
        self._left = True
        self._handled.set()
        for peer in list(self._peers):
            peer.send(leaves=True)


def _name() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"
