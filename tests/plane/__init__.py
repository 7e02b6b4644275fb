"""A Modal control plane on loopback, on which the real `modal deploy`, client and container entrypoint run.

It is written from the protobuf descriptors of the modal wheel and pinned to that version. Image builds, GPUs, real
volumes, quotas and placement are not modelled. Requests without a handler are counted in `Plane.missing`, which tests
assert to be empty.
"""

from tests.plane.plane import Plane

__all__ = ["Plane"]
