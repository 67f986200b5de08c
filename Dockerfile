# The submission image. `make build` builds it and squashes it into one layer; a plain `docker build .` gives the same
# files in several layers.

FROM python:3.13-slim-bookworm

# Where pip looks, on networks without the public package index: --build-arg NAME takes the value from the environment.
# The image's environment does not keep them, and squashing drops them from its history.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST

COPY requirements.txt /tmp/requirements.txt

# What a run never reads goes in the step that brings it: test suites, headers, archives, stubs and sources; protoc
# (torch looks for torch_shm_manager beside it when it starts); pip and what Python bundles for development. The image
# runs offline, so certificates go too, and so do .pth files, which would run at every start of the interpreter.
RUN PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
      pip install --no-deps --no-compile --require-hashes --requirement /tmp/requirements.txt \
 && cd /usr/local/lib/python3.13 \
 && find site-packages -type d '(' -name tests -o -name test -o -name include ')' -prune -exec rm -rf '{}' + \
 && find site-packages -type f '(' -name '*.a' -o -name '*.h' -o -name '*.hpp' -o -name '*.cuh' -o -name '*.c' \
      -o -name '*.cpp' -o -name '*.f90' -o -name '*.pyi' -o -name '*.pxd' -o -name '*.pyx' -o -name '*.cmake' \
      -o -name '*.pth' ')' -delete \
 && find site-packages/torch/bin '(' -type f -o -type l ')' ! -name torch_shm_manager -delete \
 && rm -rf site-packages/pip site-packages/pip-*.dist-info ensurepip idlelib tkinter turtledemo test config-3.13-* \
      /usr/local/include /usr/local/lib/pkgconfig /usr/local/bin/pip* /usr/local/bin/idle* /usr/local/bin/pydoc* \
      /usr/local/bin/python*-config /usr/local/share/ca-certificates /etc/ssl/certs /tmp/requirements.txt

WORKDIR /workspace
COPY LICENSE predict.sh sbom.cdx.json ./
COPY inference inference
# `make build WEIGHTS=…` names the folder of other weights that it has checked.
ARG WEIGHTS_FOLDER=weights
COPY ${WEIGHTS_FOLDER} weights

# One small case is segmented, with time enough for any weights. The image is not built if that fails, and Python leaves
# the bytecode of just the modules that a run imports beside them, which spares every later start their compilation.
# Files are made readable for any user, whatever the builder's umask was.
RUN chmod -R u=rwX,go=rX . \
 && mkdir inputs outputs \
 && python3 -c "import numpy as np; \
      box = dict(z_min=4, z_max=11, z_mid=8, z_mid_x_min=4, z_mid_x_max=11, z_mid_y_min=4, z_mid_y_max=11); \
      image = np.random.default_rng(0).integers(0, 256, (16, 16, 16), dtype=np.uint8); \
      np.savez('inputs/case.npz', imgs=image, spacing=np.ones(3), boxes=np.array([box]))" \
 && SEGFM3D_SECONDS_PER_CLASS=3600 sh predict.sh \
 && rm inputs/case.npz outputs/case.npz

# A run writes nothing but its outputs: no bytecode, and no cache of kernels that the driver compiles.
# Nor does a run read packages of the user whose home directory a cluster's Apptainer mounts.
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONNOUSERSITE=1 \
    PYTHONUNBUFFERED=1 \
    CUDA_CACHE_DISABLE=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

ARG VERSION=unversioned
LABEL org.opencontainers.image.title="SEGFM3D" \
      org.opencontainers.image.description="Interactive segmentation of 3D medical images from boxes and clicks" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0 AND CC-BY-NC-SA-4.0"

CMD ["sh", "predict.sh"]
