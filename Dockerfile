# The whole service without Modal: docs/how-to/containers.md. The worker in it has the lite engine; ComfyUI comes by URL.
FROM python:3.12-slim
WORKDIR /srv/comfyui-modal

COPY requirements/base.txt requirements/
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements/base.txt

COPY LICENSE comfyui_modal.py ./
COPY workflows workflows
COPY storage storage
COPY app app
COPY workers workers
COPY infra infra
COPY docs docs
COPY client client

# Workers stay root: the engine then runs as a user of its own, without any credential.
VOLUME /data
EXPOSE 8000 9000
ENTRYPOINT ["python", "-I", "/srv/comfyui-modal/comfyui_modal.py", "infra.cli"]
CMD ["up", "--host", "0.0.0.0", "--port", "8000", "--s3-port", "9000", "--data", "/data"]
