"""Long polls of an API that is stopped."""

import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from storage.bucket.s3 import S3Config
from tests.support.api_process import api_process, bucket_variables
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
