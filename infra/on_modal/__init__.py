"""The parts of the Modal app: entry points of its functions, and its adapters of the ports."""
