"""What runs in the Modal app, and the names of the app and its functions.

The names stand here, because importing `infra.modal_app` builds the app.
"""

APP_NAME = "comfyui-modal-api"
WORKER_CLASS = "ComfyWorker"
API_FUNCTION = "api"
REAP_FUNCTION = "reap"
DELIVER_FUNCTION = "deliver"
CHECK_FUNCTION = "check_image"
MODELS_FUNCTION = "download_models"
PARTS = (API_FUNCTION, WORKER_CLASS, REAP_FUNCTION, DELIVER_FUNCTION, CHECK_FUNCTION, MODELS_FUNCTION)
"""The functions and classes of a deployment. All of them are required."""
