"""Jobs in the bucket: the record, its state machine, its index keys and its store."""
