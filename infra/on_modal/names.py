"""Names under which the deployed app finds itself. Apart, so that looking them up does not build the app."""

APP_NAME = "comfyui-modal-api"
WORKER_CLASS = "ComfyWorker"
API_FUNCTION = "api"
REAP_FUNCTION = "reap"
DELIVER_FUNCTION = "deliver"
CHECK_FUNCTION = "check_image"
MODELS_FUNCTION = "download_models"
PARTS = (API_FUNCTION, WORKER_CLASS, REAP_FUNCTION, DELIVER_FUNCTION, CHECK_FUNCTION, MODELS_FUNCTION)
"""What a deployment consists of; without any one of these jobs do not get done."""
