# Everything for a CPU: the environment of requirements/cpu.txt and the project, as `make setup` installs them.
#     docker build --tag igpo-rllib .
#     docker run --rm --shm-size 2g --volume "$PWD/runs:/work/runs" igpo-rllib rllib train file conf/igpo.yaml
# MLflow on http://localhost:5000, of the runs in that folder:
#     docker run --rm --publish 127.0.0.1:5000:5000 --volume "$PWD/runs:/work/runs" igpo-rllib \
#         mlflow ui --host 0.0.0.0 --backend-store-uri sqlite:///runs/mlflow.db
FROM python:3.11-slim-bookworm

# vLLM's CPU build needs OpenMP and finds cores with numactl.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1=12.2.* libnuma1=2.0.* \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/igpo
COPY requirements requirements
COPY pyproject.toml README.md LICENSE igpo_start.py ./
COPY algorithms algorithms
COPY envs envs
COPY pipeline pipeline
COPY conf conf
RUN VENV=/opt/igpo/.venv requirements/setup.sh && rm -rf /root/.cache

# `.git` is not copied: `make image` says the commit, which a run's facts name.
ARG COMMIT=
ENV IGPO_GIT_COMMIT=$COMMIT
ENV PATH=/opt/igpo/.venv/bin:$PATH
WORKDIR /work
RUN cp -r /opt/igpo/conf conf
CMD ["rllib", "train", "file", "conf/igpo.yaml"]
