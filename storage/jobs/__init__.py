"""Jobs as they stand in the bucket: the record, its state machine, its hints and its store."""
