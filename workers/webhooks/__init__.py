"""Delivery of events: signed, at least once, as long as the receiver needs to come back."""
