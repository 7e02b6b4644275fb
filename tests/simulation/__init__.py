"""The job state machine under faults, in virtual time: any seed, any interleaving, any death."""
