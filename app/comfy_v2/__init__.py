"""Comfy API v2 (`/api/v2`), as the official SDKs of Comfy Cloud speak it: another surface over the same jobs.

A job that one surface created is visible on the other: what is `metadata` there is a job's labels here.
"""
