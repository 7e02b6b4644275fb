"""The operator's commands for the Modal deployment: `deploy`, `destroy`, `scale`, `status` and `doctor --cloud`."""
