"""The models of request and response bodies. They are separate from the stored records (`storage.jobs.record`)."""
