"""The bucket: the protocol `ObjectStore`, its implementations, and the setup of a bucket."""
