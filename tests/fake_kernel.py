"""A kernel that misbehaves on purpose. Run as a kernelspec: `fake_kernel.py CONNECTION_FILE BEHAVIOUR`.

It runs no code: what it is asked to execute comes back on stdout. It speaks the messaging protocol with nothing but
pyzmq, so that it can put messages into any order.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import signal
import sys
import time
import uuid
from datetime import UTC, datetime
from typing import Any

import zmq

_DELIMITER = b"<IDS|MSG>"


class FakeKernel:
    """Answers `kernel_info_request`, `execute_request` and `shutdown_request`."""

    def __init__(self, connection: dict[str, Any], behaviour: str) -> None:
        self.behaviour = behaviour
        self.key = connection["key"].encode()
        self.count = 0
        context = zmq.Context()
        address = f"tcp://{connection['ip']}"
        self.shell: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        self.control: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        self.iopub: zmq.Socket[bytes] = context.socket(zmq.PUB)
        self.shell.bind(f"{address}:{connection['shell_port']}")
        self.control.bind(f"{address}:{connection['control_port']}")
        self.iopub.bind(f"{address}:{connection['iopub_port']}")

    def frames(
        self, msg_type: str, content: dict[str, Any] | bytes, parent: dict[str, Any], *, key: bytes
    ) -> list[bytes]:
        """A signed message. Bytes are its content as they are."""
        header = {
            "msg_id": uuid.uuid4().hex,
            "session": "fake",
            "username": "fake",
            "date": datetime.now(UTC).isoformat(),
            "msg_type": msg_type,
            "version": "5.3",
        }
        parts = [
            part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, parent, {}, content)
        ]
        signature = hmac.new(key, b"".join(parts), hashlib.sha256).hexdigest().encode()
        return [_DELIMITER, signature, *parts]

    def publish(
        self, msg_type: str, content: dict[str, Any] | bytes, parent: dict[str, Any], *, key: bytes | None = None
    ) -> None:
        """Send over iopub."""
        self.iopub.send_multipart([msg_type.encode(), *self.frames(msg_type, content, parent, key=key or self.key)])

    def status(self, state: str, parent: dict[str, Any]) -> None:
        """Say `busy` or `idle`."""
        self.publish("status", {"execution_state": state}, parent)

    def write(self, text: str, parent: dict[str, Any], *, key: bytes | None = None) -> None:
        """Put text out."""
        self.publish("stream", {"name": "stdout", "text": text}, parent, key=key)

    def reply(
        self,
        socket: zmq.Socket[bytes],
        to: list[bytes],
        msg_type: str,
        content: dict[str, Any] | bytes,
        parent: dict[str, Any],
    ) -> None:
        """Answer a request."""
        socket.send_multipart([*to, *self.frames(msg_type, content, parent, key=self.key)])

    def serve(self) -> None:
        """Answer until a shutdown request."""
        poller = zmq.Poller()
        poller.register(self.shell, zmq.POLLIN)
        poller.register(self.control, zmq.POLLIN)
        while True:
            for socket, _ in poller.poll():
                frames = socket.recv_multipart()
                at = frames.index(_DELIMITER)
                header, content = json.loads(frames[at + 2]), json.loads(frames[at + 5])
                if header["msg_type"] == "shutdown_request":
                    self.reply(socket, frames[:at], "shutdown_reply", {"status": "ok", "restart": False}, header)
                    time.sleep(0.05)
                    return
                if header["msg_type"] == "kernel_info_request" and self.behaviour != "silent":
                    self.info(socket, frames[:at], header)
                elif header["msg_type"] == "execute_request":
                    self.execute(frames[:at], header, content["code"])

    def info(self, socket: zmq.Socket[bytes], to: list[bytes], header: dict[str, Any]) -> None:
        """Say who we are."""
        self.status("busy", header)
        content = {
            "status": "ok",
            "protocol_version": "5.3",
            "implementation": "fake",
            "implementation_version": "0",
            "language_info": {"name": "fake", "mimetype": "text/plain", "file_extension": ".txt", "version": "0"},
            "banner": "",
        }
        self.reply(socket, to, "kernel_info_reply", content, header)
        if self.behaviour != "never-idle":
            self.status("idle", header)

    def execute(self, to: list[bytes], header: dict[str, Any], code: str) -> None:
        """Send the messages of an execution in the order that the behaviour asks for."""
        self.count += 1
        done = {"status": "ok", "execution_count": self.count, "user_expressions": {}, "payload": []}
        stranger = {**header, "msg_id": uuid.uuid4().hex}
        self.status("busy", header)
        self.publish("execute_input", {"code": code, "execution_count": self.count}, header)
        match self.behaviour:
            case "idle-first":
                self.write(code, header)
                self.status("idle", header)
                time.sleep(0.3)
                self.reply(self.shell, to, "execute_reply", done, header)
            case "reply-first":
                self.reply(self.shell, to, "execute_reply", done, header)
                time.sleep(0.3)
                self.write(code, header)
                self.status("idle", header)
            case "output-last":
                self.reply(self.shell, to, "execute_reply", done, header)
                self.status("idle", header)
                time.sleep(0.05)
                self.write(code, header)
            case "no-idle" | "never-idle":
                self.write(code, header)
                self.reply(self.shell, to, "execute_reply", done, header)
            case "no-reply":
                self.write(code, header)
                self.status("idle", header)
            case "wrong-parent":
                failed = {"status": "error", "ename": "Wrong", "evalue": "", "traceback": [], "execution_count": 99}
                self.write("not yours", stranger)
                self.reply(self.shell, to, "execute_reply", failed, stranger)
                self.status("idle", stranger)
                self.write("no parent", {})
                self.write(code, header)
                self.reply(self.shell, to, "execute_reply", done, header)
                self.status("idle", header)
            case "forged":
                self.write("forged", header, key=b"another key")
                self.iopub.send_multipart([b"stream", b"no delimiter"])
                self.iopub.send_multipart([b"stream", _DELIMITER, b"x"])
                self.iopub.send_multipart([b"stream", _DELIMITER, b"", b"{", b"{", b"{", b"{"])
                self.write(code, header)
                self.reply(self.shell, to, "execute_reply", done, header)
                self.status("idle", header)
            case "twice":
                for _ in range(2):
                    self.write(code, header)
                    self.reply(self.shell, to, "execute_reply", done, header)
                    self.status("idle", header)
            case "aborts":
                self.reply(self.shell, to, "execute_reply", {"status": "aborted"}, header)
                self.status("idle", header)
            case "broken-output":
                self.publish("stream", b"{", header)
                self.publish("error", {"ename": "E", "evalue": "", "traceback": 5}, header)
                self.write(code, header)
                self.reply(self.shell, to, "execute_reply", done, header)
                self.status("idle", header)
            case "broken-reply" | "idle-then-broken-reply" | "reply-not-json":
                self.write(code, header)
                if self.behaviour == "idle-then-broken-reply":
                    self.status("idle", header)
                    time.sleep(0.3)
                broken = {"status": "error", "ename": "E", "evalue": "", "traceback": 5}
                content = b"{" if self.behaviour == "reply-not-json" else broken
                self.reply(self.shell, to, "execute_reply", content, header)
                if self.behaviour != "idle-then-broken-reply":
                    self.status("idle", header)
            case "not-utf-8":
                self.publish("stream", b'{"name": "stdout", "text": "caf\xe9"}', header)
                self.reply(self.shell, to, "execute_reply", done, header)
                self.status("idle", header)
            case "stops":  # as a kernel whose process lives and does nothing any more
                time.sleep(600)
            case _:
                self.write(code, header)
                self.reply(self.shell, to, "execute_reply", done, header)
                self.status("idle", header)


def main() -> None:
    """Be the kernel that the command line asks for."""
    file, behaviour = sys.argv[1:3]
    if behaviour == "dies":
        sys.stderr.write("no module named moon\n")
        sys.exit(3)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if behaviour == "unbound":
        time.sleep(600)
    with open(file, encoding="utf-8") as connection:
        kernel = FakeKernel(json.load(connection), behaviour)
    kernel.serve()


if __name__ == "__main__":
    main()
