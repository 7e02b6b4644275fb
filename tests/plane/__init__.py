"""A Modal control plane on loopback: the real `modal deploy`, client and container entrypoint run on it.

Written from the protobuf descriptors that ship in the modal wheel, and pinned to that version. Not modelled: image
builds, GPUs, real volumes, quotas, placement. What no handler answers is counted in `Plane.missing`, which tests
assert to be empty.
"""

from tests.plane.plane import Plane

__all__ = ["Plane"]
