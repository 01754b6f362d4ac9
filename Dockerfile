# docker build --target cpu --tag ser .       or    docker build --target gpu --tag ser:gpu .
# docker run --rm --user "$(id -u)" --volume "$PWD:/data" ser train experiment=demo
# docker run --rm --user "$(id -u)" --volume "$PWD:/data" --gpus all ser:gpu train experiment=recommended trainer=gpu
# docker run --rm --volume "$PWD:/data" --publish 127.0.0.1:7860:7860 ser demo --checkpoint RUN --host 0.0.0.0
FROM python:3.12-slim AS source
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY conf conf
COPY ser ser

FROM python:3.12-slim AS base
# Any user id may run it: caches go where everybody can write, and the id has a name.
ENV HOME=/tmp USER=ser PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
WORKDIR /data
ENTRYPOINT ["ser"]
CMD ["--help"]

# PyPI's torch for Linux brings CUDA, several GB; the host needs NVIDIA's driver and container toolkit.
FROM base AS gpu
RUN --mount=type=bind,from=source,source=/source,target=/source,rw \
    pip install --constraint /source/constraints.txt '/source[demo,export,wandb,sweep,search]'

# The last stage is what `docker build` makes without --target.
FROM base AS cpu
RUN --mount=type=bind,from=source,source=/source,target=/source,rw \
    pip install --extra-index-url https://download.pytorch.org/whl/cpu --constraint /source/constraints.txt \
    '/source[demo,export,wandb,sweep,search]'
