"""Durable state: the S3 client, the key layout, the job record and its transitions, the queue."""
