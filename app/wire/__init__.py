"""The bodies of requests and answers, as clients see them. What is stored is another thing (`storage.jobs.record`)."""
