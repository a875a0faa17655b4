"""Where the scheduler of a Dask cluster is, and why a connection to it fails.

The place is an address, or the file that `dask scheduler --scheduler-file` writes. Certificates come from Dask's own
configuration, as for each other client of Dask.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from pathlib import Path

from distributed.security import Security

from papermill_mcp.errors import ServerError, ServerNotRunningError
from papermill_mcp.utils.file_utils import read_file

#: Kinds of addresses: those that need certificates, and all.
_ENCRYPTED = ("tls", "wss")
_KINDS = ("tcp", "ws", *_ENCRYPTED)

_HOST_AND_PORT = re.compile(r"[^/\\]+:[0-9]+")

#: A scheduler writes its file in one go, but not as one: it may be looked at in between.
_TRIES = 10
_PAUSE = 0.1
_FILE_BYTES = 5_000_000

#: Seconds for the question whether a port answers, and speaks TLS.
_ASK_SECONDS = 2.0

_CERTIFICATES = (
    "set distributed.comm.tls.ca-file, client.cert and client.key in Dask's configuration, or "
    "DASK_DISTRIBUTED__COMM__TLS__CA_FILE, ...__TLS__CLIENT__CERT and ...__TLS__CLIENT__KEY in the environment of the "
    "server"
)


async def address_of(setting: str) -> str:
    """The address of the scheduler now, from the setting. A file is read anew, since a new scheduler writes it anew.

    Raises:
        ServerNotRunningError: the file is not there or is no scheduler file, the address has an unknown form, or the
            certificates for it are missing or cannot be used.
    """
    address = setting
    if "://" not in setting and not _HOST_AND_PORT.fullmatch(setting):
        address = await _in_file(_file(setting))
    kind, _, rest = address.partition("://")
    if rest and kind not in _KINDS:
        raise _unusable(
            f"the address {address[:200]!r} has the scheme {kind[:20]!r}",
            f"use one of {', '.join(f'{one}://' for one in _KINDS)}, or the path of a scheduler file",
        )
    if kind in _ENCRYPTED:
        await asyncio.to_thread(_require_certificates, address)
    return address


def _file(setting: str) -> Path:
    try:
        return Path(setting).expanduser()
    except RuntimeError as error:
        raise _unusable(
            f"the scheduler file {setting!r} has an unknown home directory", "write the whole path"
        ) from error


async def _in_file(file: Path) -> str:
    """The address in a scheduler file."""
    for number in range(1, _TRIES + 1):
        try:
            content = await asyncio.to_thread(read_file, file, max_bytes=_FILE_BYTES, display_path=repr(str(file)))
            address = json.loads(content.data)["address"]
        except ServerError as error:
            raise _unusable(
                f"the scheduler file cannot be read: {error.problem}",
                "start the scheduler with --scheduler-file, or correct the setting dask_scheduler",
            ) from error
        except (ValueError, RecursionError, KeyError, TypeError):
            address = None
        if isinstance(address, str) and "://" in address:
            return address
        if number < _TRIES:
            await asyncio.sleep(_PAUSE)
    raise _unusable(
        f"{str(file)!r} is no scheduler file: it has no address",
        "name the file that dask scheduler --scheduler-file writes, or an address such as tcp://host:8786",
    )


def _require_certificates(address: str) -> None:
    """Check that Dask's configuration has certificates. Called in a worker thread: it reads them."""
    try:
        context = Security().get_connection_args("client")["ssl_context"]
    except (OSError, ValueError, TypeError) as error:  # an error of ssl is an OSError
        raise _unusable(
            f"the certificates for {address} in Dask's configuration cannot be used: {error}", _CERTIFICATES
        ) from error
    if context is None:
        raise _unusable(f"{address} needs certificates, and Dask's configuration has none", _CERTIFICATES)


async def refusal(address: str, error: BaseException) -> ServerNotRunningError:
    """The error about a scheduler that cannot be connected, with the reason as far as it is known."""
    causes = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    text = next((str(one) for one in causes if str(one)), "") or "it takes too long"
    advice = "start it, or correct the setting dask_scheduler"
    encrypted = address.startswith(_ENCRYPTED)
    speaks_tls = False
    if not any(isinstance(one, ssl.SSLError | ConnectionRefusedError) for one in causes):
        # Dask ends with a timeout, or with a closed connection. So the port itself is asked.
        found = await _asked(address)
        speaks_tls = found is None or (isinstance(found, ssl.SSLError) and "ALERT" in (found.reason or ""))
        if found is not None and (encrypted or not isinstance(found, ssl.SSLError)):
            causes.append(found)
    if any(isinstance(one, ssl.SSLCertVerificationError) for one in causes):
        text, advice = "its certificate is not signed by the CA of Dask's configuration here", _CERTIFICATES
    elif failed := next((one for one in causes if isinstance(one, ssl.SSLError)), None):
        if failed.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"):
            text, advice = "it does not speak TLS", "use tcp:// in the setting dask_scheduler"
        else:
            text, advice = f"it refuses the certificate of this server: {failed.reason}", _CERTIFICATES
    elif any(isinstance(one, ConnectionRefusedError) for one in causes):
        text = "nothing listens there"
    elif encrypted and isinstance(causes[-1], ConnectionError):
        text, advice = "it ends the connection, perhaps as it refuses the certificate of this server", _CERTIFICATES
    elif not encrypted and speaks_tls:
        text, advice = "it speaks TLS only", "use tls:// in the setting dask_scheduler"
    return ServerNotRunningError(
        f"no Dask scheduler answers at {address}: {text}", state="nothing was run", advice=advice
    )


async def _asked(address: str) -> Exception | None:
    """The failure of a connection with TLS; None if there is none. To an address without TLS nothing is proved or sent.

    A scheduler refuses a certificate after the connection is made, instead of its first word.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        if address.startswith(_ENCRYPTED):
            context = (await asyncio.to_thread(Security().get_connection_args, "client"))["ssl_context"]
        else:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        async with asyncio.timeout(_ASK_SECONDS):
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=context)
            try:
                if address.startswith(_ENCRYPTED) and not await reader.read(1):
                    return ConnectionResetError("it ends the connection")
            finally:
                writer.close()
    except (OSError, ValueError, OverflowError) as error:  # a port may be none
        return error
    return None


def _unusable(what: str, advice: str) -> ServerNotRunningError:
    return ServerNotRunningError(what, state="nothing was run", advice=advice)
