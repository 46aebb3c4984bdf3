"""Calls of a TensorRT engine on a GPU.

There are two slots, each with buffers, a stream and an execution context of its own. While one computes, the other
copies: the calls of a stream take turns.
"""

import ctypes
import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from cuda.bindings import runtime
from numpy.typing import NDArray

from unetpipe.engines import onnx_file
from unetpipe.engines.contract import Engine
from unetpipe.errors import UserError


class CudaEngine(Engine):
    """An engine of ``trt``, the module tensorrt or tensorrt_rtx, on the first visible GPU.

    Raises
    ------
    UserError
        If the library refuses the file, or the GPU has not enough memory for calls of ``shape``.
    """

    def __init__(
        self,
        trt: Any,
        file: Path,
        *,
        messages: Any,
        library: str,
        device: str,
        shape: tuple[int, int, int, int],
    ) -> None:
        super().__init__(library, device, shape)
        # Kept, since it must outlive its engine.
        self._runtime = trt.Runtime(messages)
        self._engine = self._runtime.deserialize_cuda_engine(file.read_bytes())
        if self._engine is None:
            raise UserError(
                f"the engine {file} was to be loaded by {library} on {device}",
                "; ".join(messages.errors) or "no engine, and no message",
                f"delete {file.parent} to build it anew for this GPU",
            )
        self._resources = ExitStack()
        with ExitStack() as failed:
            failed.callback(self._resources.close)
            self._slots = [_Slot(trt, self._engine, shape, self._resources) for _ in range(2)]
            failed.pop_all()

    def _stream(self, batches: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        waiting: deque[_Slot] = deque()
        for batch, slot in zip(batches, itertools.cycle(self._slots), strict=False):
            slot.start(batch)
            waiting.append(slot)
            if len(waiting) == len(self._slots):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def close(self) -> None:
        """Free the memory of the GPU."""
        self._slots.clear()
        self._resources.close()
        del self._engine, self._runtime


class _Slot:
    """All that one call needs; its memory is given back with ``resources``."""

    def __init__(self, trt: Any, engine: Any, shape: tuple[int, ...], resources: ExitStack) -> None:
        config = engine.create_runtime_config()
        # Memory for calls of this shape, not for the largest that the engine could take.
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if hasattr(config, "dynamic_shapes_kernel_specialization_strategy"):
            # TensorRT-RTX would compute the first calls with general kernels and later ones with kernels for this
            # shape: voxels would change in the middle of a run.
            strategies = trt.DynamicShapesKernelSpecializationStrategy
            config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        context = engine.create_execution_context(config)
        self._context = context
        self._queue = _ask(runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking))
        resources.callback(runtime.cudaStreamDestroy, self._queue)
        if not (
            context.set_optimization_profile_async(0, int(self._queue))
            and context.set_input_shape(onnx_file.IMAGE, shape)
        ):
            raise RuntimeError(f"the engine refuses calls of {shape}")
        scratch_bytes = max(1, context.update_device_memory_size_for_shapes())
        context.set_device_memory(_device_memory(scratch_bytes, resources), scratch_bytes)
        self._input = _Buffer(shape, resources)
        self._output = _Buffer(tuple(context.get_tensor_shape(onnx_file.PROBABILITY)), resources)
        context.set_tensor_address(onnx_file.IMAGE, self._input.device)
        context.set_tensor_address(onnx_file.PROBABILITY, self._output.device)

    def start(self, batch: NDArray[np.float32]) -> None:
        """Queue one call; ``batch`` (n, z, y, x) is read before this returns."""
        # A call that nobody collected may still read the buffer.
        _ask(runtime.cudaStreamSynchronize(self._queue))
        self._input.host[...] = batch
        self._input.copy(runtime.cudaMemcpyKind.cudaMemcpyHostToDevice, self._queue)
        if not self._context.execute_async_v3(int(self._queue)):
            raise RuntimeError("the engine refused a call")
        self._output.copy(runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost, self._queue)

    def result(self) -> NDArray[np.float32]:
        """The result of the call, once it is there."""
        _ask(runtime.cudaStreamSynchronize(self._queue))
        return self._output.host.copy()


class _Buffer:
    """Memory for one float32 array, on the GPU and on the host; pinned there, so that it is copied in parallel."""

    def __init__(self, shape: tuple[int, ...], resources: ExitStack) -> None:
        count = math.prod(shape)
        self.bytes = count * np.dtype(np.float32).itemsize
        self.device = _device_memory(self.bytes, resources)
        address = int(_ask(runtime.cudaHostAlloc(self.bytes, runtime.cudaHostAllocDefault)))
        resources.callback(runtime.cudaFreeHost, address)
        self.host = np.ctypeslib.as_array((ctypes.c_float * count).from_address(address)).reshape(shape)

    def copy(self, kind: Any, queue: Any) -> None:
        host = self.host.ctypes.data
        target, source = (
            (self.device, host) if kind == runtime.cudaMemcpyKind.cudaMemcpyHostToDevice else (host, self.device)
        )
        _ask(runtime.cudaMemcpyAsync(target, source, self.bytes, kind, queue))


def _device_memory(size_bytes: int, resources: ExitStack) -> int:
    address = int(_ask(runtime.cudaMalloc(size_bytes)))
    resources.callback(runtime.cudaFree, address)
    return address


def _ask(answer: tuple[Any, ...]) -> Any:
    """The value that a function of CUDA gives; its errors as exceptions."""
    error, *values = answer
    if error == runtime.cudaError_t.cudaErrorMemoryAllocation:
        raise UserError(
            "memory of the GPU was to be taken for the calls of the engine",
            "there is not enough of it",
            "set predict.batch or predict.tile to less, or give each GPU to one worker alone",
        )
    if error != runtime.cudaError_t.cudaSuccess:
        raise RuntimeError(f"CUDA: {runtime.cudaGetErrorString(error)[1].decode()}")
    return values[0] if values else None
