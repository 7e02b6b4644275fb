"""The reaper and its duties, which complete the work of dead processes."""
