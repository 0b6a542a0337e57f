"""Names in an ONNX file: protobuf does not check that they are text."""

from __future__ import annotations

from collections.abc import Collection

from latency_service.core.errors import ModelFileError


def check_text(names: Collection[str]) -> None:
    """Refuse what is no UTF-8; protobuf gives such a name as bytes.

    Raises:
        ModelFileError: showing the name.
    """
    try:
        "".join(names)
    except TypeError:
        wrong = next(name for name in names if not isinstance(name, str))
        raise ModelFileError(
            f"a name in the model is no UTF-8 text: {wrong!r}. Check the file with "
            "onnx.checker.check_model"
        ) from None
