"""CORS and lifecycle of the bucket, set once by its owner, and the permissions that a deployment needs.

Foreign rules are kept: S3 replaces a whole configuration at once, so ours are recognised by their ids, and the others
are written back unchanged. No rule expires anything below `tenants/`, because a lifecycle rule knows a prefix and an
age, not whether a job has ended, and a job may wait in the queue for any number of days. The reaper removes the objects
of jobs.

`OBJECT_ACTIONS` and `BUCKET_ACTIONS` are those of `S3ObjectStore`'s requests; a test records each request and compares.
A multipart upload needs only PutObject, HeadObject only GetObject, and a conditional write both.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import anyio.to_thread

from storage import keys
from storage.bucket._s3_clients import S3Config, make_client, translated
from storage.errors import StorageRefused

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

T = TypeVar("T")
Rule = dict[str, Any]

MARK = "comfyui-modal"
"""The prefix of our rules' ids. They end with the deployment's prefix, since several may share a bucket."""
ABORT_AFTER_DAYS = 2
"""Days after which an incomplete upload is aborted. None lasts longer than a container may run, which is a day."""
PROBES_AFTER_DAYS = 1
CORS_MAX_AGE_S = 3600
ATTEMPTS = 4

_CORS, _LIFECYCLE = "CORS", "lifecycle"
_KEPT = ("TransitionDefaultMinimumObjectSize",)
_ABSENT = frozenset({"NoSuchCORSConfiguration", "NoSuchLifecycleConfiguration"})
_UNSUPPORTED = frozenset({"NotImplemented", "MethodNotAllowed", "XNotImplemented"})


class NotSupported(StorageRefused):
    """The store does not implement the request."""


@dataclass(frozen=True, slots=True)
class RuleChange:
    """The current and the wanted rules of one kind; `foreign` rules are in both.

    `options` are further settings of the configuration, which a write without them would reset.
    """

    kind: str
    foreign: Sequence[Rule]
    present: Sequence[Rule]
    wanted: Sequence[Rule]
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_needed(self) -> bool:
        return _comparable(self.present) != _comparable(self.wanted)


def cors_rules(prefix: str, origins: Sequence[str]) -> list[Rule]:
    """Return the rules that a browser on these origins needs for presigned uploads and downloads."""
    rule = {
        "ID": _rule_id("presigned", prefix),
        # The headers that a presigned PUT requires, and that of a partial download.
        "AllowedHeaders": ["content-type", "if-none-match", "range"],
        "AllowedMethods": ["PUT", "GET", "HEAD"],
        "AllowedOrigins": list(origins),
        "ExposeHeaders": ["ETag", "Content-Length", "Content-Range"],
        "MaxAgeSeconds": CORS_MAX_AGE_S,
    }
    return [rule]


def lifecycle_rules(prefix: str) -> list[Rule]:
    """Return the rules for objects that a dead process leaves: parts of broken uploads, and probes."""
    folder = keys.root(prefix)
    abort = {
        "ID": _rule_id("broken-uploads", prefix),
        "Status": "Enabled",
        "Filter": {"Prefix": folder},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": ABORT_AFTER_DAYS},
    }
    probes = {
        "ID": _rule_id("probes", prefix),
        "Status": "Enabled",
        "Filter": {"Prefix": folder + keys.PROBES},
        "Expiration": {"Days": PROBES_AFTER_DAYS},
    }
    return [abort, probes]


class BucketSetup:
    """Reads and writes one bucket's configuration. A `StorageRefused` says what the bucket's owner must do."""

    def __init__(self, config: S3Config) -> None:
        self._config = config

    async def plan_cors(self, origins: Sequence[str]) -> RuleChange:
        answer = await self._call(_CORS, lambda s3: s3.get_bucket_cors(Bucket=self._config.bucket))
        return _change(_CORS, answer or {}, "CORSRules", cors_rules(self._config.prefix, origins))

    async def plan_lifecycle(self) -> RuleChange:
        answer = await self._call(
            _LIFECYCLE, lambda s3: s3.get_bucket_lifecycle_configuration(Bucket=self._config.bucket)
        )
        return _change(_LIFECYCLE, answer or {}, "Rules", lifecycle_rules(self._config.prefix))

    async def apply(self, change: RuleChange) -> None:
        target: Any = {"Bucket": self._config.bucket, **change.options}
        rules: Any = [*change.foreign, *change.wanted]

        def write(s3: "S3Client") -> object:
            if change.kind == _CORS:
                return s3.put_bucket_cors(**target, CORSConfiguration={"CORSRules": rules})
            return s3.put_bucket_lifecycle_configuration(**target, LifecycleConfiguration={"Rules": rules})

        await self._call(change.kind, write)

    async def _call(self, kind: str, request: Callable[["S3Client"], T]) -> T | None:
        """Return the response; None if the bucket has no such configuration yet."""
        return await anyio.to_thread.run_sync(self._send, kind, request)

    def _send(self, kind: str, request: Callable[["S3Client"], T]) -> T | None:
        from botocore.exceptions import ClientError

        s3 = make_client(self._config, ATTEMPTS, self._config.endpoint_url)
        try:
            with translated(kind):
                try:
                    return request(s3)
                except ClientError as error:
                    code = error.response.get("Error", {}).get("Code", "")
                    if code in _ABSENT:  # S3's answer where no rule was ever set
                        return None
                    if code in _UNSUPPORTED:
                        raise NotSupported(f"this store does not know {kind} rules: {code}") from error
                    raise
        finally:
            s3.close()


def _rule_id(name: str, prefix: str) -> str:
    suffix = prefix.strip("/").replace("/", ".")
    return f"{MARK}-{name}-{suffix}" if suffix else f"{MARK}-{name}"


def _change(kind: str, answer: Mapping[str, Any], member: str, wanted: list[Rule]) -> RuleChange:
    rules = answer.get(member, [])
    ours = {rule["ID"] for rule in wanted}
    present = [rule for rule in rules if rule.get("ID") in ours]
    foreign = [rule for rule in rules if rule not in present]
    options = {name: answer[name] for name in _KEPT if name in answer}
    return RuleChange(kind, foreign, present, wanted, options)


def _comparable(rules: Sequence[Rule]) -> dict[str, Rule]:
    """Return the rules by id with sorted lists."""
    return {
        # A store may return a rule's lists in any order.
        rule["ID"]: {name: sorted(value) if isinstance(value, list) else value for name, value in rule.items()}
        for rule in rules
    }


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
