"""The parts of the Modal app: what its functions run, and its adapters of our ports."""
