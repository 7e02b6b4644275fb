"""The job state machine under faults in virtual time, for any seed, interleaving and crash."""
