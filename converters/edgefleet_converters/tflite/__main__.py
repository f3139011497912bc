"""The compiler alone: `python -m edgefleet_converters.tflite IN.onnx OUT.tflite [--runtime litert-2.3]`.

Exit 0 means that OUT was written. A refusal writes nothing, exits 4 and says on three lines what, why and what to do.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from edgefleet_protocol.errors import EdgefleetError

REFUSED: Final = 4


def main(argv: Sequence[str] | None = None) -> int:
    """Compile one file. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m edgefleet_converters.tflite", description="Compile ONNX to TFLite."
    )
    parser.add_argument("model", type=Path, help="an .onnx file, with its external data beside it")
    parser.add_argument("out", type=Path, help="the .tflite file to write")
    parser.add_argument("--runtime", default="tflite-2.14", choices=["tflite-2.14", "litert-2.3"])
    args = parser.parse_args(argv)
    try:
        data = _compiled(args.model, args.runtime)
    except EdgefleetError as error:
        return _refuse(f"{args.model.name} is not compiled for {args.runtime}", error.message, error.next_step)
    except OSError as error:
        return _refuse(f"cannot read {args.model}", str(error), "give the path of an .onnx file")
    partial = args.out.with_name(args.out.name + ".part")
    partial.write_bytes(data)
    partial.replace(args.out)
    return 0


def _compiled(path: Path, runtime: str) -> bytes:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    from edgefleet_converters.errors import NotAModelError
    from edgefleet_converters.tflite.compile import compile_model
    from edgefleet_converters.tflite.runtimes import RUNTIMES

    try:
        model = onnx.load(path)
    except DecodeError as error:
        raise NotAModelError("the file is no ONNX model", next_step="give an .onnx file") from error
    return compile_model(model, RUNTIMES[runtime]).data


def _refuse(what: str, why: str, next_step: str) -> int:
    sys.stderr.write(f"error: {what}\nwhy:   {why}\nnext:  {next_step}\n")
    return REFUSED


if __name__ == "__main__":
    sys.exit(main())
