"""Names of element types in the Open Inference Protocol v2, by numpy's name; `string` is numpy's str, bytes or object array.

Loads nothing: the client imports it where numpy is not installed.
"""

DATATYPES = {
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "bool": "BOOL",
    "string": "BYTES",
}
