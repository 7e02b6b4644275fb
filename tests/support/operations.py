"""All operations of both APIs, for tests that go through every one of them."""

from app.comfy_v2.routes import OPERATIONS as COMFY_V2_OPERATIONS
from app.openapi import OPERATIONS

EVERY_OPERATION = (*OPERATIONS, *COMFY_V2_OPERATIONS)
