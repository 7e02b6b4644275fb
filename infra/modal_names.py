"""Names under which the deployed app finds itself. Apart, so that looking them up does not build the app."""

APP_NAME = "comfyui-modal-api"
WORKER_CLASS = "ComfyWorker"
DELIVER_FUNCTION = "deliver"
