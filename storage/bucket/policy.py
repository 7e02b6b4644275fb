"""The minimal permissions that a deployment needs, as AWS IAM policies.

`OBJECT_ACTIONS` and `BUCKET_ACTIONS` are those of `S3ObjectStore`'s requests; a test records each request and compares.
A multipart upload needs only PutObject, HeadObject only GetObject, and a conditional write both.
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
"""Further actions of `bucket setup`, which the deployment itself does not need."""


def run_policy(bucket: str, prefix: str) -> dict[str, Any]:
    """Return the policy of the deployment's key."""
    folder = keys.root(prefix)
    listing: dict[str, Any] = {
        "Sid": "ListKeys",
        "Effect": "Allow",
        "Action": list(BUCKET_ACTIONS),
        "Resource": f"arn:aws:s3:::{bucket}",
    }
    if folder:
        # IfExists: a GET of a missing key is a 404 only for a client that may list, and such a GET has no s3:prefix.
        listing["Condition"] = {"StringLikeIfExists": {"s3:prefix": f"{folder}*"}}
    objects = {
        "Sid": "UseObjects",
        "Effect": "Allow",
        "Action": list(OBJECT_ACTIONS),
        "Resource": f"arn:aws:s3:::{bucket}/{folder}*",
    }
    return {"Version": "2012-10-17", "Statement": [objects, listing]}


def setup_policy(bucket: str) -> dict[str, Any]:
    """Return the policy of the key that runs `bucket setup`."""
    setup = {
        "Sid": "SetUp",
        "Effect": "Allow",
        "Action": list(SETUP_ACTIONS),
        "Resource": f"arn:aws:s3:::{bucket}",
    }
    return {"Version": "2012-10-17", "Statement": [setup]}
