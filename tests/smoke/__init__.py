"""Tests that need the cloud: `make smoke-modal` against an existing deployment."""
