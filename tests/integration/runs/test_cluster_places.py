"""Where a Dask scheduler is: scheduler files, TLS, and each way in which a connection fails."""

from __future__ import annotations

import asyncio
import datetime
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import dask
import pytest
from conftest import Connect
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from helpers import REPOSITORY, call, cell, read_json, refused, until, write_notebook

from papermill_mcp.core.cluster.client import Cluster
from papermill_mcp.errors import ServerNotRunningError

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

_MAIN = {name: f"from distributed.cli.dask_{name} import main; main()" for name in ("scheduler", "worker")}


class Authority:
    """A certificate authority, and certificates that it has signed, as files."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.file = self._write(f"{name}-ca.pem", self._signed(self._name, self._key, ca=True))

    def _signed(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool = False) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        made = x509.CertificateBuilder(issuer_name=self._name, subject_name=subject, public_key=key.public_key())
        made = made.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        made = made.not_valid_after(now + datetime.timedelta(days=1))
        made = made.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        return made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _write(self, name: str, data: bytes) -> str:
        file = self._directory / name
        file.write_bytes(data)
        return str(file)

    def certificate(self, name: str) -> tuple[str, str]:
        """The files of a new certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return self._write(f"{name}.pem", self._signed(subject, key)), self._write(f"{name}.key", private)


class Place:
    """A scheduler with one worker, processes of this test on loopback."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "scheduler.json"
        self.env: dict[str, str] = {}
        self._processes: list[subprocess.Popen[bytes]] = []

    def _start(self, kind: str, *flags: str) -> None:
        paths = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        env = os.environ | {"DASK_TEMPORARY_DIRECTORY": str(self.directory), "PYTHONPATH": paths, **self.env}
        with (self.directory / "dask.log").open("ab") as log:
            command = [sys.executable, "-c", _MAIN[kind], "--no-dashboard", *flags]
            self._processes.append(subprocess.Popen(command, env=env, cwd=self.directory, stdout=log, stderr=log))

    async def start(self, *flags: str, worker: bool = True) -> str:
        """Start both anew. Returns the address."""
        self.stop()
        self.file.unlink(missing_ok=True)
        self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(self.file), *flags)
        await until(
            lambda: self.file.exists() and self.file.read_text().endswith("}"), seconds=30, what="the scheduler"
        )
        if worker:
            self._start("worker", "--scheduler-file", str(self.file), "--nthreads", "1", "--no-nanny")
        address: str = read_json(self.file)["address"]
        return address

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.stop()


@pytest.fixture
def certificates(tmp_path: Path, place: Place) -> Authority:
    """A CA whose certificates the scheduler and its worker use."""
    authority = Authority(tmp_path, "cluster")
    place.env["DASK_DISTRIBUTED__COMM__TLS__CA_FILE"] = authority.file
    for role in ("SCHEDULER", "WORKER"):
        cert, key = authority.certificate(role.lower())
        place.env |= {
            f"DASK_DISTRIBUTED__COMM__TLS__{role}__CERT": cert,
            f"DASK_DISTRIBUTED__COMM__TLS__{role}__KEY": key,
        }
    return authority


def settings_of(authority: Authority, cert: str, key: str) -> dict[str, str]:
    """Dask's configuration of a client."""
    return {
        "distributed.comm.tls.ca-file": authority.file,
        "distributed.comm.tls.client.cert": cert,
        "distributed.comm.tls.client.key": key,
    }


async def failure(setting: str) -> str:
    """The message about a place that cannot be connected, within a bounded time."""
    began = time.monotonic()
    with pytest.raises(ServerNotRunningError) as raised:
        await Cluster.connect(setting, timeout_seconds=3)
    assert time.monotonic() - began < 8
    message = str(raised.value)
    assert "Nothing was run" in message
    return message


@asynccontextmanager
async def connected(setting: str) -> AsyncIterator[Cluster]:
    cluster = await Cluster.connect(setting, timeout_seconds=10)
    try:
        yield cluster
    finally:
        await cluster.aclose()


# Scheduler files


async def test_scheduler_file_is_read_for_each_batch(place: Place, client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", [cell("n = 1", tags=["parameters"]), cell("print(n)")])
    async with client(dask_scheduler=str(place.file)) as mcp:
        arguments = {"input_path": "in.ipynb", "wait": 60}
        message = await refused(mcp, "execute_notebook_batch", grid={"n": [1]}, **arguments)
        assert "does not exist" in message and "--scheduler-file" in message
        addresses = set()
        for number in (1, 2):  # the second one has another address
            addresses.add(await place.start())
            view = await call(mcp, "execute_notebook_batch", seconds=80, grid={"n": [number]}, **arguments)
            assert view["status"] == "ok", view
        assert len(addresses) == 2


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"address": 3}', '{"address": "no address"}', "[" * 100_000])
async def test_file_that_is_no_scheduler_file(text: str, tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    file.write_text(text)
    assert "is no scheduler file" in await failure(str(file))


async def test_home_directory_that_is_not_known() -> None:
    assert "home directory" in await failure("~nobody-has-this-name/scheduler.json")


async def test_scheduler_file_may_be_half_written(tmp_path: Path, place: Place) -> None:
    await place.start(worker=False)
    whole = place.file.read_text()
    file = tmp_path / "other.json"
    file.write_text(whole[:20])
    later = asyncio.get_running_loop().call_later(0.3, file.write_text, whole)
    async with connected(str(file)):
        pass
    later.cancel()


async def test_scheduler_of_the_file_is_gone(place: Place) -> None:
    address = await place.start(worker=False)
    text = place.file.read_text()
    place.stop()
    place.file.write_text(text)
    message = await failure(str(place.file))
    assert address in message and "nothing listens there" in message


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "inproc://x", "ucx://127.0.0.1:1", "foo://127.0.0.1:1"])
async def test_address_of_an_unknown_form(address: str) -> None:
    assert "tcp://" in await failure(address)


# TLS


async def test_batch_over_tls(place: Place, certificates: Authority, client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", [cell("n = 1", tags=["parameters"]), cell("print(n)")])
    address = await place.start("--protocol", "tls")
    assert address.startswith("tls://")
    with dask.config.set(settings_of(certificates, *certificates.certificate("client"))):
        for setting in (address, str(place.file)):
            async with client(dask_scheduler=setting) as mcp:
                view = await call(
                    mcp,
                    "execute_notebook_batch",
                    seconds=80,
                    input_path="in.ipynb",
                    grid={"n": [1]},
                    resume=False,
                    wait=60,
                )
                assert view["status"] == "ok", view


async def test_configuration_in_the_environment_counts(certificates: Authority, place: Place) -> None:
    """As a server process reads it when it starts."""
    address = await place.start("--protocol", "tls", worker=False)
    cert, key = certificates.certificate("client")
    env = {
        "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": certificates.file,
        "DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT": cert,
        "DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY": key,
    }
    code = (
        "import asyncio, sys\nfrom papermill_mcp.core.cluster.client import Cluster\n"
        "async def main():\n    await (await Cluster.connect(sys.argv[1], timeout_seconds=10)).aclose()\n"
        "asyncio.run(main())\nprint('connected')"
    )
    done = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, address, env=os.environ | env, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(done.communicate(), 60)
    assert output == b"connected\n"


async def test_each_fault_of_certificates_has_its_message(
    place: Place, certificates: Authority, tmp_path: Path
) -> None:
    address = await place.start("--protocol", "tls", worker=False)
    cert, key = certificates.certificate("client")
    assert "needs certificates" in await failure(address)
    assert "DASK_DISTRIBUTED__COMM__TLS__CA_FILE" in await failure(address)

    good = settings_of(certificates, cert, key)
    with dask.config.set(good | {"distributed.comm.tls.client.cert": str(tmp_path / "none.pem")}):
        assert "cannot be used" in await failure(address)
    with dask.config.set(good | {"distributed.comm.tls.client.key": certificates.file}):
        assert "cannot be used" in await failure(address)

    other = Authority(tmp_path, "other")
    foreign = other.certificate("foreign")
    with dask.config.set(settings_of(other, *foreign)):
        assert "not signed by the CA" in await failure(address)
    with dask.config.set(settings_of(certificates, *foreign)):
        assert "refuses the certificate" in await failure(address)
    with dask.config.set(good):
        assert "speaks TLS only" in await failure(address.replace("tls://", "tcp://"))
        async with connected(address):
            pass


async def test_tls_to_a_scheduler_without_it(place: Place, certificates: Authority) -> None:
    address = await place.start(worker=False)
    with dask.config.set(settings_of(certificates, *certificates.certificate("client"))):
        assert "does not speak TLS" in await failure(address.replace("tcp://", "tls://"))
