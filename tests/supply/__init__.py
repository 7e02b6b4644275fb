"""The origin of dependencies: pinned, hashed, licensed."""
