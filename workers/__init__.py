"""Execution: the ComfyUI process and its driver, the job runner, output upload, the lite engine."""
