"""How everything is put together: a module for each kind of process, which imports what that runs, and no more.

Nothing is decided here, only wired.
"""
