"""The folders of the models' volume, by the kinds of models of ComfyUI and of the packs in the image."""

MODEL_FOLDERS = (
    *("audio_encoders", "background_removal", "checkpoints", "classifiers", "clip", "clip_vision", "controlnet"),
    *("detection", "diffusers", "diffusion_models", "embeddings", "frame_interpolation", "geometry_estimation"),
    *("gligen", "hypernetworks", "latent_upscale_models", "loras", "model_patches", "optical_flow", "photomaker"),
    *("style_models", "t2i_adapter", "text_encoders", "unet", "upscale_models", "vae", "vae_approx"),
)
"""Folders of the models' volume, by ComfyUI's names: every kind of model in ComfyUI 0.33."""
PACK_FOLDERS = {
    "onnx": "onnx",
    "sams": "sams",
    "ultralytics": "ultralytics",
    "ultralytics_bbox": "ultralytics/bbox",
    "ultralytics_segm": "ultralytics/segm",
}
"""Folders for the kinds of models that the packs of infra/nodes.toml add: kind → folder."""
