"""`make soak` sends thousands of valid and hostile requests, and measures the API's memory meanwhile."""
