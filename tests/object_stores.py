"""An S3 server in a process of its own, for tests of outputs in object stores."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from typing import Any

import boto3
from botocore.config import Config as BotoConfig

#: Environment variables by which every AWS tool finds the server. Nothing of the machine is used.
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "key-of-the-test",
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}


class S3Server:
    """A server that is started with one bucket, `bucket`."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + 30
        while not self.answers:
            assert self._process.poll() is None, "the S3 server did not start"
            assert time.monotonic() < end, "the S3 server does not answer"
            time.sleep(0.05)
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
            config=BotoConfig(retries={"max_attempts": 1}, proxies={}),
        )
        self.client.create_bucket(Bucket="bucket")

    @property
    def answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket="bucket", Key=key, Body=data)

    def get(self, key: str) -> bytes:
        body: bytes = self.client.get_object(Bucket="bucket", Key=key)["Body"].read()
        return body

    def keys(self) -> list[str]:
        return [one["Key"] for one in self.client.list_objects_v2(Bucket="bucket").get("Contents", [])]

    def clear(self) -> None:
        for key in self.keys():
            self.client.delete_object(Bucket="bucket", Key=key)

    def stop(self) -> None:
        self.client.close()
        self._process.kill()
        self._process.wait(timeout=10)
