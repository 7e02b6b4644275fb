"""Model files on the deployment's volume: their manifest, their download and their verification."""
