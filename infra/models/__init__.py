"""Models on the deployment's volume: which files, where they come from, and whether they are what they were."""
