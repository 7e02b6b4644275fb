"""Connections of an API process: long polls when it is stopped, and how many wait to be accepted."""

import socket
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from infra.local.api_process import ACCEPTED_AT_ONCE
from infra.local.host import BACKLOG
from storage.bucket.s3 import S3Config
from tests.support.api_process import api_on, api_process, bucket_variables
from tests.support.api_server import BLUE
from tests.support.plain_http import NO_TLS

POLLS = 20
KEY = "a-key"


def test_long_polls_are_answered_when_the_api_stops(s3_config: S3Config) -> None:
    """Long polls return the job's current state when the API stops, so that none is cut and the stop is quick."""
    headers = {"authorization": f"Bearer {KEY}"}
    with ThreadPoolExecutor(POLLS) as pool:
        with api_process(bucket_variables(s3_config) | {"COMFYUI_MODAL_API_KEY": KEY}) as url:
            job = httpx.post(
                f"{url}/v1/jobs", headers=headers, json={"workflow": BLUE}, timeout=30, verify=NO_TLS
            ).json()
            polled = f"{url}/v1/jobs/{job['job_id']}?wait=60"
            polls = [pool.submit(httpx.get, polled, headers=headers, timeout=90) for _ in range(POLLS)]
            time.sleep(5)
            assert not any(poll.done() for poll in polls)
        answers = [poll.result() for poll in polls]
    assert {(answer.status_code, answer.json()["status"]) for answer in answers} == {(200, "queued")}


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO tells the length of the queue on Linux alone")
def test_many_connections_wait_to_be_accepted(s3_config: S3Config) -> None:
    """Connections wait in a queue of their own length, though uvicorn has one number for it and for `accept`."""
    with socket.create_server(("127.0.0.1", 0)) as listener, api_on(listener, bucket_variables(s3_config)):
        (queue,) = struct.unpack_from("I", listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32), 28)
    assert queue == BACKLOG > ACCEPTED_AT_ONCE
