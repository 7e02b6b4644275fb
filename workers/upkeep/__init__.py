"""The reaper, and the duties that repair what dead processes left behind."""
