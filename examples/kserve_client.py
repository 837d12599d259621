"""Probabilities of features from `vidfit serve`, by a KServe v2 client: pip install 'tritonclient[http]'."""

import numpy as np
import tritonclient.http as triton

client = triton.InferenceServerClient("127.0.0.1:8000")
print(client.get_model_metadata("model"))  # names, types and shapes
frames = {"rgb": np.zeros((1, 120, 1024), np.uint8), "audio": np.zeros((1, 120, 128), np.uint8)}  # your bytes
inputs = [triton.InferInput(name, list(array.shape), "UINT8") for name, array in frames.items()]
for put, array in zip(inputs, frames.values(), strict=True):
    put.set_data_from_numpy(array)
probabilities = client.infer("model", inputs).as_numpy("probabilities")  # float32 [B, C]
print(probabilities)
