"""The bucket: the port `ObjectStore`, its versions, and what a bucket must be set up with."""
