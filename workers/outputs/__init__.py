"""From a node's result to objects in the bucket."""
