"""Every operation of the HTTP API, in the order of the document. A test compares the table with the routes."""

from app.openapi import batches, jobs, service, uploads, webhooks, workflows

OPERATIONS = (
    *jobs.OPERATIONS,
    *batches.OPERATIONS,
    *webhooks.OPERATIONS,
    *uploads.OPERATIONS,
    *workflows.OPERATIONS,
    *service.OPERATIONS,
)
