"""Where what we run comes from: pinned, hashed, licensed."""
