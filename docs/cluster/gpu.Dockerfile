# UNTESTED. An image for GPUs from the wheel, for docs/cluster/kuberay.yaml. The package is not on PyPI:
#     make wheel
#     docker build --tag REGISTRY/igpo-rllib:gpu --file docs/cluster/gpu.Dockerfile dist
#     docker push REGISTRY/igpo-rllib:gpu
FROM python:3.11-slim-bookworm

# Triton compiles with gcc and the headers of Python, which this image has. KubeRay probes with wget.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc=4:12.2.* libc6-dev=2.36-* wget=1.21.* \
    && rm -rf /var/lib/apt/lists/*

# ray[default] has the dashboard, to which jobs are submitted.
COPY igpo_rllib-*.whl /tmp/
RUN pip install --no-cache-dir "$(echo /tmp/igpo_rllib-*.whl)[gpu]" "ray[default]>=2.60,<2.61" && rm /tmp/igpo_rllib-*.whl
