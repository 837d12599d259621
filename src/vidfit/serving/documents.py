"""What `/openapi.json` says about bodies, which FastAPI does not read itself."""

from typing import Any, Final

_NUMBERS: Final = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}
_TENSOR: Final = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string"},
        "datatype": {"enum": ["UINT8", "FP32", "INT64"]},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "data": {"type": "array"},
        "parameters": {"type": "object"},
    },
}


def _body(content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}}


def _object(required: list[str], properties: dict[str, Any]) -> dict[str, Any]:
    return {"schema": {"type": "object", "required": required, "properties": properties}}


VIDEO: Final = _body(
    {
        "multipart/form-data": _object(["video"], {"video": {"type": "string", "format": "binary"}}),
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    }
)
FEATURES: Final = _body(
    {
        "application/json": _object(
            ["videos"],
            {
                "videos": {"type": "array", "items": {"type": "object", "additionalProperties": _NUMBERS}},
                "top_k": {"type": "integer", "minimum": 1, "default": 20},
            },
        )
    }
)
TENSORS: Final = _body(
    {
        "application/json": _object(
            ["inputs"],
            {
                "id": {"type": "string"},
                "inputs": {"type": "array", "items": _TENSOR},
                "outputs": {"type": "array", "items": {"type": "object"}},
                "parameters": {"type": "object"},
            },
        ),
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    }
)
ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    "4XX": {
        "description": "What is wrong, in one line.",
        "content": {"application/json": _object(["error"], {"error": {"type": "string"}})},
    }
}
