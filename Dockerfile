# The renderer with CUDA, for hosts with the NVIDIA container toolkit; without a GPU it runs on the CPU.
#
#   docker build -t safron .
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/data" safron mask.zarr slide.tiff
#
# The extra "cluster" is inside, so the same image runs a Dask scheduler and its workers:
#
#   docker run --rm --network host --entrypoint dask safron scheduler --host 127.0.0.1
#
# onnxruntime-gpu 1.31 is built against CUDA 13.0 and cuDNN 9 and links libcudart.so.13, libcublas.so.13,
# libcublasLt.so.13 and libcurand.so.10; all of them come with the base image, so the extra "cuda", which
# brings them as wheels, is left out and the image does not hold them twice. constraints.txt keeps
# onnxruntime-gpu at that version: raise both together.
#
# No image was built from this file where it was written, for want of a Docker engine. Checked instead:
# the build stage's commands in a clean Python 3.12 environment, that nothing installed links a library
# that is neither in the environment nor in the packages named below, and a render as another user
# without a home folder.

FROM ubuntu:24.04 AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/safron
WORKDIR /src
COPY constraints.txt pyproject.toml setup.cfg setup.py README.md LICENSE NOTICE ./
COPY engine engine
COPY io io
COPY training training
RUN /opt/safron/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt '.[cluster]' \
 && /opt/safron/bin/pip uninstall -y pip

FROM nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04
LABEL org.opencontainers.image.title="SAFRON" \
      org.opencontainers.image.description="Turn tissue masks into gigapixel synthetic pathology slides, in constant memory" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 libstdc++6 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --create-home safron
COPY --from=build /opt/safron /opt/safron
# Any user may run it (--user), also one that has no home folder here.
ENV PATH=/opt/safron/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1
USER safron
WORKDIR /data
ENTRYPOINT ["safron-render"]
CMD ["--help"]
