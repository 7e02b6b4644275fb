"""Job submission: validation before anything is stored, then acceptance by one commit."""
