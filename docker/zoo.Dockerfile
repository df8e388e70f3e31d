# An image with a user's model zoo. What it requires is installed in a layer before the code, so that a changed model
# is built and pushed in seconds. `edl image build` makes it; docs/images.md explains it.
#
# The build context is put together by launcher/image_context.py:
#   requirements/   requirements.txt (empty when the zoo has none) and the files it includes
#   zoo/            the zoo's files, without those that .dockerignore names and without those that look secret
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
USER 0:0
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
COPY requirements/ /build/requirements/
# TensorFlow and what Horovod was compiled against stay as they are.
RUN cd /build/requirements \
    && pip install --no-cache-dir --constraint /opt/venv/constraints.txt --requirement requirements.txt
USER 1000:1000
COPY zoo/ /model_zoo/custom/
