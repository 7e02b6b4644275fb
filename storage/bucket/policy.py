"""The least that a bucket's owner must allow, as AWS IAM policies.

`OBJECT_ACTIONS` and `BUCKET_ACTIONS` are what `S3ObjectStore` does; a test sends each of its requests through a
recorder and compares. A multipart upload needs no action but PutObject, HeadObject none but GetObject, and a
conditional write needs both.
"""

from typing import Any

from storage import keys

OBJECT_ACTIONS = ("s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:PutObject")
BUCKET_ACTIONS = ("s3:ListBucket",)
SETUP_ACTIONS = (
    "s3:GetBucketCORS",
    "s3:GetLifecycleConfiguration",
    "s3:PutBucketCORS",
    "s3:PutLifecycleConfiguration",
)
"""What `bucket setup` needs beside; the deployment itself does without."""


def run_policy(bucket: str, prefix: str) -> dict[str, Any]:
    """For the key that the deployment holds."""
    folder = keys.root(prefix)
    listing: dict[str, Any] = {
        "Sid": "ListKeys",
        "Effect": "Allow",
        "Action": list(BUCKET_ACTIONS),
        "Resource": f"arn:aws:s3:::{bucket}",
    }
    if folder:
        # IfExists: S3 answers a GET of a missing key with 404 only to whom may list, and such a GET has no s3:prefix.
        listing["Condition"] = {"StringLikeIfExists": {"s3:prefix": f"{folder}*"}}
    objects = {
        "Sid": "UseObjects",
        "Effect": "Allow",
        "Action": list(OBJECT_ACTIONS),
        "Resource": f"arn:aws:s3:::{bucket}/{folder}*",
    }
    return {"Version": "2012-10-17", "Statement": [objects, listing]}


def setup_policy(bucket: str) -> dict[str, Any]:
    """For whoever runs `bucket setup`."""
    setup = {
        "Sid": "SetUp",
        "Effect": "Allow",
        "Action": list(SETUP_ACTIONS),
        "Resource": f"arn:aws:s3:::{bucket}",
    }
    return {"Version": "2012-10-17", "Statement": [setup]}
