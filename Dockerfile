# yolo9000 on the CPU, from its wheel, for a user without rights:
#   docker build -t yolo9000 .
#   docker run --rm -v "$PWD:/data" yolo9000 detect photo.jpg
# GPU: docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126 -t yolo9000 . ; docker run --gpus all ...
# Behind a mirror of PyPI that has torch: --build-arg TORCH_INDEX=$PIP_INDEX_URL

FROM python:3.12-slim-bookworm AS build
WORKDIR /src
RUN pip install --no-cache-dir "build>=1.2" "setuptools>=77"
COPY pyproject.toml README.md LICENSE NOTICE cli.py ./
COPY datasets datasets
COPY wordtree wordtree
COPY yolo9000 yolo9000
RUN python -m build --wheel --no-isolation --outdir /wheels

FROM python:3.12-slim-bookworm
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# torch first, in a layer of its own: it is most of the image and changes least
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" "torch>=2.6" "torchvision>=0.21"
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir "$(echo /wheels/*.whl)[export,video]" \
    && useradd --create-home --uid 1000 user \
    && mkdir /data && chown user /data
USER user
WORKDIR /data
ENTRYPOINT ["yolo9000"]
CMD ["--help"]
