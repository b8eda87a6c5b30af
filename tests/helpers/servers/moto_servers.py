"""An S3 server over HTTP (moto) in this process, and a view of what lies in it.

Not covered: what other implementations of S3 do otherwise.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from guardrail.evidence.digest import sha256
from guardrail.gate.settings import S3Bucket


@dataclass(frozen=True)
class S3:
    """Where it answers; ``environment`` is what a process needs to use it."""

    endpoint: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            "MLFLOW_S3_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        """A client of one's own, beside the server: nobody judges it."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
        )

    def make(self, bucket: str) -> None:
        """A bucket; one that is there stays."""
        self.client().create_bucket(Bucket=bucket)

    def objects(self, bucket: str, prefix: str) -> dict[str, str]:
        """Key below ``prefix`` to SHA-256 of every object."""
        client = self.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
        return {
            key.removeprefix(f"{prefix}/"): sha256(client.get_object(Bucket=bucket, Key=key)["Body"].read())
            for key in keys
        }


@dataclass(frozen=True)
class Remote:
    """A destination in a bucket, as tests look at it."""

    s3: S3
    place: S3Bucket

    def files(self, path: str) -> dict[str, str]:
        """Path to SHA-256 of every object below ``path`` in the destination."""
        return self.s3.objects(self.place.bucket, "/".join(part for part in (self.place.prefix, path) if part))


@contextmanager
def s3_server() -> Iterator[S3]:
    """The server, empty, until the block ends."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line for every request otherwise
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield S3(f"http://{host}:{port}")
    finally:
        server.stop()


@contextmanager
def using(s3: S3) -> Iterator[None]:
    """This process's environment, put back afterwards."""
    before = {name: os.environ.get(name) for name in s3.environment}
    os.environ |= s3.environment
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
