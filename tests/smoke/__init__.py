"""What only the cloud shows: `make smoke-modal`, against a deployment that stands."""
