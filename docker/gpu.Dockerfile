# The base image for nodes with NVIDIA GPUs: as Dockerfile, with TensorFlow's CUDA libraries and Horovod on NCCL.
# `edl image base --gpu` makes it. The project's machines have no GPU: nobody has built or run this image yet; see
# docs/images.md for what has been checked. TensorFlow 2.21 is built for CUDA 12.5 and later, and brings its own
# libraries by pip; of CUDA's images it is the compiler (devel) and libcudart (base) that Horovod needs. NCCL is linked
# into Horovod (HOROVOD_NCCL_LINK=STATIC).
ARG CUDA_VERSION=12.6.3
ARG CUDA_SYSTEM=ubuntu24.04
ARG CUDA_DEVEL_IMAGE=nvidia/cuda:${CUDA_VERSION}-devel-${CUDA_SYSTEM}
ARG CUDA_BASE_IMAGE=nvidia/cuda:${CUDA_VERSION}-base-${CUDA_SYSTEM}

FROM ${CUDA_DEVEL_IMAGE} AS builder
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends g++ make git python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
COPY requirements.txt /build/
RUN pip install --requirement /build/requirements.txt
ENV HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_NCCL_LINK=STATIC HOROVOD_CUDA_HOME=/usr/local/cuda
COPY seed/ /build/cache/wheels/
COPY horovod/ /build/horovod/
RUN cd /build/horovod && EDL_CACHE=/build/cache python -m edl_allreduce.horovod_wheel install
# Leaves out what only compilers and other people's tests read; notes what a zoo's requirements must not change.
RUN cd /opt/venv/lib/python3*/site-packages \
    && rm -rf tensorflow/include pyarrow/include pyarrow/tests clang/native \
    && pip freeze | grep -E '^(tensorflow|tensorflow[_-]cpu|keras|protobuf|grpcio)==' > /opt/venv/constraints.txt

FROM builder AS code
COPY dist/ /build/dist/
RUN pip install --no-deps --ignore-installed --prefix /code /build/dist/*.whl

FROM ${CUDA_BASE_IMAGE}
# The image's own user ubuntu has the number that ours has in the other image.
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && (userdel --remove ubuntu || true) \
    && useradd --uid 1000 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin edl
COPY --from=builder /opt/venv/ /opt/venv/
COPY --from=code /code/ /opt/venv/
COPY model_zoo/ /model_zoo/
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp LANG=C.UTF-8 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /opt
USER 1000:1000
CMD ["edl"]
