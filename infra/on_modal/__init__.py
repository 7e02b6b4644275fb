"""What runs in the Modal app, the names of the app and its functions, and the places of an API container.

The names stand here, because importing `infra.modal_app` builds the app.
"""

APP_NAME = "comfyui-modal-api"
WORKER_CLASS = "ComfyWorker"
API_FUNCTION = "api"
REAP_FUNCTION = "reap"
DELIVER_FUNCTION = "deliver"
CHECK_FUNCTION = "check_image"
MODELS_FUNCTION = "download_models"
API_CONCURRENCY = 400
"""Requests that one API container admits. Modal holds back further ones, before any share of a tenant is known."""
API_TARGET = 100
"""Requests of one API container from which on Modal starts another. They wait for the bucket, not for the CPU."""
PARTS = (API_FUNCTION, WORKER_CLASS, REAP_FUNCTION, DELIVER_FUNCTION, CHECK_FUNCTION, MODELS_FUNCTION)
"""The functions and classes of a deployment. All of them are required."""
