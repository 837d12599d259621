# `vidfit serve` for the packed file models/model.onnx. docs/guide/serving.md has the commands.
# On x86, pip's PyTorch brings CUDA, which serving does not use. PyTorch's own index has a smaller one.
FROM python:3.12-slim
WORKDIR /vidfit
COPY constraints.txt dist/*.whl ./
RUN pip install --no-cache-dir -c constraints.txt "$(ls *.whl)[serve,videos]"
USER nobody
WORKDIR /models
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD python -c "import urllib.request as it; it.urlopen('http://127.0.0.1:8000/v2/health/ready')"
ENTRYPOINT ["vidfit", "serve", "--host", "0.0.0.0"]
CMD ["model.onnx"]
