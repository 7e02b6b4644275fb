"""What is sent to receivers, and how the sending stands."""
