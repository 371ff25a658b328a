"""Heads that stay on the card."""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import suppress
from itertools import count as counter
from typing import TYPE_CHECKING

import numpy as np

from zsl_runtime.errors import BackendError
from zsl_runtime.trt.cuda import DeviceMemory, Stream

if TYPE_CHECKING:
    from zsl_runtime.head.head import FoldedHead
    from zsl_runtime.trt.cuda import Cuda


class CardHead:
    """Weight and bias of a head on the card; `Heads` makes and drops it.

    Attributes:
        serial: another one for each upload.
        classes: C.
        weight: (C, D) float32.
        bias: (C,) float32.

    """

    def __init__(self, serial: int, head: FoldedHead, weight: DeviceMemory, bias: DeviceMemory) -> None:
        self.serial = serial
        self.classes = len(head.bias)
        self.weight = weight
        self.bias = bias
        self.arrays = head.weight, head.bias  # kept, so that no other array takes their identity
        self.users = 0

    def close(self) -> None:
        """Give the memory back; nothing is raised."""
        for memory in (self.weight, self.bias):
            with suppress(BackendError):
                memory.close()


class Heads:
    """The heads on a card. One that is in use stays; of the others the `spare` used last.

    A head is told by the identity of its arrays, which nobody changes: class filters, which replace `class_bias` alone,
    are the same head here. Uploads go through a stream of their own, and calls with other heads do not wait for them.
    """

    def __init__(self, cuda: Cuda, spare: int) -> None:
        self._cuda, self._spare = cuda, spare
        self._stream = Stream(cuda)
        self._lock = threading.Lock()
        self._uploading = threading.Lock()
        self._held: OrderedDict[tuple[int, int], CardHead] = OrderedDict()
        self._serials = counter(1)

    def acquire(self, head: FoldedHead) -> CardHead:
        """The head on the card, copied there if need be; to be released. BackendError E-CUDA-..."""
        key = id(head.weight), id(head.bias)
        found = self._use(key)
        if found is not None:
            return found
        with self._uploading:
            found = self._use(key)  # another thread may have been first
            if found is not None:
                return found
            made = self._upload(head)
            made.users = 1
            with self._lock:
                self._held[key] = made
                dropped = self._idle()
        self._drop(dropped)
        return made

    def release(self, head: CardHead) -> None:
        """The work with it is done."""
        with self._lock:
            head.users -= 1
            dropped = self._idle()
        self._drop(dropped)

    def serials(self) -> frozenset[int]:
        """Of the heads that are there."""
        with self._lock:
            return frozenset(head.serial for head in self._held.values())

    def close(self) -> None:
        """Give everything back; none may be in use."""
        with self._lock:
            dropped = list(self._held.values())
            self._held.clear()
        self._drop(dropped)
        with suppress(BackendError):
            self._stream.close()

    def _use(self, key: tuple[int, int]) -> CardHead | None:
        with self._lock:
            found = self._held.get(key)
            if found is not None:
                found.users += 1
                self._held.move_to_end(key)
            return found

    def _idle(self) -> list[CardHead]:
        """Take out what is too much, the one used longest ago first. With the lock held."""
        unused = [key for key, head in self._held.items() if head.users == 0]
        return [self._held.pop(key) for key in unused[: max(len(unused) - self._spare, 0)]]

    def _drop(self, heads: list[CardHead]) -> None:
        for head in heads:
            head.close()

    def _upload(self, head: FoldedHead) -> CardHead:
        arrays = [np.ascontiguousarray(array, np.float32) for array in (head.weight, head.bias)]
        made: list[DeviceMemory] = []
        try:
            for array in arrays:
                made.append(DeviceMemory(self._cuda, array.nbytes))
                self._cuda.copy_to_card(made[-1].address, array.ctypes.data, array.nbytes, self._stream)
            self._stream.synchronize()
        except BaseException:
            with suppress(BackendError):
                self._stream.synchronize()  # a copy that was queued still writes there
            for memory in made:
                with suppress(BackendError):
                    memory.close()
            raise
        return CardHead(next(self._serials), head, *made)
