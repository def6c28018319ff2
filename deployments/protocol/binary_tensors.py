"""The protocol's binary tensor extension: raw tensor bytes behind the JSON part of a body. Pure.

https://github.com/kserve/open-inference-protocol, "Binary Tensor Data Extension". Numbers are little-endian, row-major;
each BYTES element follows its length, 4 bytes little-endian. NaN stands for a missing number; text has no null.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.errors import RequestError

JSON_LENGTH_HEADER = "inference-header-content-length"
BINARY_DATA_SIZE = "binary_data_size"

DTYPES: dict[str, np.dtype] = {
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BOOL": np.dtype("?"),
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
}
_LENGTH = struct.Struct("<I")


def split_body(body: bytes, header: str | None) -> tuple[memoryview, memoryview | None]:
    """Split a body into its JSON part and the tensors behind it.

    Args:
        body: The whole body.
        header: Length of the JSON part, as in JSON_LENGTH_HEADER; None: all of it is JSON.

    Raises:
        RequestError: ``header`` is not a length within the body.
    """
    view = memoryview(body)
    if header is None:
        return view, None
    if not header.isdecimal() or int(header) > len(body):
        raise RequestError("request.invalid_json_length", field=JSON_LENGTH_HEADER, limit=len(body))
    return view[: int(header)], view[int(header) :]


def attach_tensors(tensors: Sequence[Mapping[str, Any]], tail: memoryview) -> list[Mapping[str, Any]]:
    """Cut ``tail`` into the binary data of the tensors, in order, and add it to each as an Arrow array under ``data``.

    Raises:
        RequestError: Sizes do not add up to ``tail``, or the bytes do not fit the datatype.
    """
    attached, at = [], 0
    for i, tensor in enumerate(tensors):
        size = _size(tensor, f"inputs[{i}].parameters.{BINARY_DATA_SIZE}")
        if size is None:
            attached.append(tensor)
            continue
        if at + size > len(tail):
            raise _wrong_size(f"inputs[{i}]", f"{size} bytes announced, {len(tail) - at} left")
        data = decode_tensor(tail[at : at + size], tensor.get("datatype"), f"inputs[{i}]")
        attached.append({**tensor, "data": data})
        at += size
    if at != len(tail):
        raise _wrong_size("body", f"{len(tail) - at} bytes that belong to no input")
    return attached


def decode_tensor(data: memoryview, datatype: object, field: str) -> pa.Array:
    """Decode the values of one tensor. Raises RequestError when the bytes do not fit ``datatype``."""
    if datatype == "BYTES":
        return _texts(data, field)
    dtype = DTYPES.get(datatype) if isinstance(datatype, str) else None
    if dtype is None:
        raise wrong_datatype(field, ["BYTES", *DTYPES], datatype)
    if len(data) % dtype.itemsize:
        raise _wrong_size(field, f"{len(data)} bytes are not a multiple of the size of {datatype}")
    return pa.array(np.frombuffer(data, dtype))


def encode_tensor(values: np.ndarray | Sequence[str]) -> bytes:
    """Encode one output: numbers as float32, texts with their lengths."""
    if isinstance(values, np.ndarray):
        return np.ascontiguousarray(values, "<f4").tobytes()
    return b"".join(_encode_texts(values))


def wrong_datatype(field: str, expected: object, datatype: object) -> RequestError:
    """The error of a tensor whose datatype is not among the expected ones."""
    return RequestError(
        "request.wrong_datatype", field=f"{field}.datatype", expected=expected, datatype=str(datatype)[:20]
    )


def _wrong_size(field: str, reason: str) -> RequestError:
    return RequestError("request.wrong_binary_size", field=field, reason=reason)


def _encode_texts(texts: Iterable[str]) -> Iterable[bytes]:
    for text in texts:
        encoded = text.encode()
        yield _LENGTH.pack(len(encoded))
        yield encoded


def _size(tensor: Mapping[str, Any], field: str) -> int | None:
    parameters = tensor.get("parameters") if isinstance(tensor, dict) else None
    size = parameters.get(BINARY_DATA_SIZE) if isinstance(parameters, dict) else None
    if size is not None and (type(size) is not int or size < 0):
        raise _wrong_size(field, "expected a number of bytes")
    if size is not None and "data" in tensor:
        raise RequestError("request.duplicate_data", field=field)
    return size


def _texts(data: memoryview, field: str) -> pa.Array:
    offsets, joined = _split_equal_lengths(data) or _split_texts(data, field)
    array = pa.Array.from_buffers(pa.string(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(joined)])
    try:
        array.validate(full=True)
    except pa.ArrowInvalid as error:
        raise RequestError("request.not_utf8", field=field) from error
    return array


def _split_equal_lengths(data: memoryview) -> tuple[np.ndarray, bytes] | None:
    """Offsets, int32 [n + 1], and joined bytes of texts of equal length, as codes mostly are, without a loop.

    None for others.
    """
    first = _LENGTH.unpack_from(data)[0] if len(data) >= _LENGTH.size else 0
    stride = first + _LENGTH.size
    if not len(data) or len(data) % stride:
        return None
    cells = np.frombuffer(data, np.uint8).reshape(-1, stride)
    if (cells[:, : _LENGTH.size].copy().view("<u4") != first).any():
        return None
    return np.arange(len(cells) + 1, dtype=np.int32) * first, cells[:, _LENGTH.size :].tobytes()


def _split_texts(data: memoryview, field: str) -> tuple[np.ndarray, bytes]:
    """Offsets and joined bytes of any texts. Raises RequestError when the lengths do not add up."""
    parts, offsets, at, size = [], [0], 0, len(data)
    while at < size:
        if at + _LENGTH.size > size:
            raise _wrong_size(field, "the bytes are truncated inside a length")
        start = at + _LENGTH.size
        at = start + _LENGTH.unpack_from(data, at)[0]
        parts.append(data[start:at])
        offsets.append(offsets[-1] + at - start)
    if at != size:
        raise _wrong_size(field, "the bytes are truncated inside a string")
    return np.array(offsets, np.int32), b"".join(parts)
