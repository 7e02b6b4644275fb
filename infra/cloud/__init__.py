"""The operator's side of the Modal deployment: what `deploy`, `scale`, `status` and `doctor --cloud` do."""
