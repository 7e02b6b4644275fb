"""The streams that pages follow: those of /v1, for the key of a session and within the same limits."""

from app.api import job_events, tenant_events
from app.ui.routing import page

ROUTES = (
    page("/events", tenant_events.events, "events"),
    page("/jobs/{job_id}/events", job_events.events, "job_events"),
)
