# docker build -t xxact .                               without a GPU
# docker build -t xxact --build-arg VARIANT=cuda .      torch with CUDA, several GB more
# docker run --rm -it -v "$PWD/data:/xxact/data" -v "$PWD/runs:/xxact/runs" xxact make pretrain
# (with CUDA: --gpus all). `.ci/container` runs the same steps where there is no docker.
FROM python:3.12-slim
ARG VARIANT=cpu
RUN apt-get update && apt-get install --yes --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
WORKDIR /xxact
COPY . .
RUN bash .ci/container install "$VARIANT"
ENV PATH=/xxact/.venv/bin:$PATH
CMD ["xxact", "--help"]
