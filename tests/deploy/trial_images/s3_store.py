"""Runs moto as the S3 store of the trial, on port 8333 with a bucket: `s3_store.py FOLDER BUCKET`.

moto keeps objects in memory, so they are written to the folder when the container is stopped, and put back at the next start.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote, unquote

import boto3  # type: ignore[import-untyped]
from botocore.exceptions import EndpointConnectionError  # type: ignore[import-untyped]

ADDRESS = "http://127.0.0.1:8333"


def main() -> int:
    """Serve until SIGTERM."""
    folder, bucket = Path(sys.argv[1]), sys.argv[2]
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "moto.server", "-H", "0.0.0.0", "-p", "8333"]
    server = subprocess.Popen(command, start_new_session=True)
    client = boto3.client(
        "s3", endpoint_url=ADDRESS, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    while True:
        try:
            client.create_bucket(Bucket=bucket)
            break
        except EndpointConnectionError:
            time.sleep(0.2)
    for file in folder.iterdir():
        client.put_object(Bucket=bucket, Key=unquote(file.name), Body=file.read_bytes())
    client.create_bucket(Bucket="healthz")  # the address of the health check
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for one in page.get("Contents", ()):
            body = client.get_object(Bucket=bucket, Key=one["Key"])["Body"].read()
            (folder / quote(one["Key"], safe="")).write_bytes(body)
    server.kill()  # it has taken over the blocked signals
    server.wait()
    return 0


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    sys.exit(main())
