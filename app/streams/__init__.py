"""Server-sent events: what happened to a job since a client last heard of it, and the responses that send it."""
