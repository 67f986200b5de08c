"""Several objects side by side: what they want predicted is gathered, and the network's forwards are shared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from torch import Tensor

from inference.predictor import Predictor, is_out_of_memory
from inference.refinement import Forwards

Key = TypeVar("Key")


def side_by_side(predictor: Predictor, running: dict[Key, Forwards]) -> Iterator[tuple[Key, Exception | None]]:
    """Runs the passes of several objects to their ends, in rounds: one request of each, one batch a shape of patch.

    The answers are those that each would get alone, within the arithmetic of a batch.

    Args:
        running: for each object its passes, not begun; it is taken out when they have ended.

    Yields:
        each object as its passes end, with the error that ended them, if one did.

    Raises:
        DeviceFailure: the device failed; what is still in ``running`` has not ended.
    """
    answers: dict[Key, Tensor | Exception | None] = dict.fromkeys(running)
    while answers:
        requests: dict[Key, Tensor] = {}
        for key, answer in answers.items():
            error = None
            if isinstance(answer, Exception):
                error = answer
            else:
                try:
                    requests[key] = next(running[key]) if answer is None else running[key].send(answer)
                    continue
                except StopIteration:
                    pass
                except Exception as caught:  # It ends this object's passes, and no other's.
                    predictor.raise_if_device_failed(caught)
                    error = caught
            if error is not None and is_out_of_memory(error):
                error.__traceback__ = None  # It holds tensors.
            del running[key]
            yield key, error
        answers = {}
        for shape in dict.fromkeys(request.shape for request in requests.values()):
            same = [key for key, request in requests.items() if request.shape == shape]
            answers |= zip(same, predictor.predict([requests[key] for key in same]))
