"""Delivery of events: signed, at least once, with retries over about three days."""
