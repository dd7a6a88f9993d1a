"""Which implementation of an op is taken, and how one with a backward of its own is made known to torch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

Run = TypeVar("Run", bound=Callable[..., object])
#: One for each tensor, None where there is none.
Tensors = Sequence[Tensor | None]

_LOG = logging.getLogger("kanscan")
_said: set[tuple[str, str]] = set()
# What "auto" means. Of the process, not of a thread: a compiled graph can watch a plain value, and nothing else.
_asked = "auto"


@dataclass(frozen=True)
class Backend(Generic[Run]):
    """One way to compute an op.

    Attributes:
        run: Computes it.
        refusal: From the arguments that decide and `asked`, whether it was asked for by name, to why `run` cannot
            serve them, or None if it can.
        absence: Why no tensors can be served here, or None if some can. Only of compiled kernels: what has it exists
            only where kanscan is installed, and is no part of a graph that is exported.
    """

    run: Run
    refusal: Callable[..., str | None] | None = None
    absence: Callable[[], str | None] | None = None

    def refuses(self, *arguments: object, asked: bool) -> str | None:
        """Return why this call cannot be served, or None if it can."""
        if self.absence is not None and transformed():
            return "its kernels have no part in torch.func transforms and forward-mode derivatives"
        return None if self.refusal is None else self.refusal(*arguments, asked=asked)


def choose(op: str, table: Mapping[str, Backend[Run]], name: str, *arguments: object) -> Run:
    """Pick an implementation.

    Args:
        op: Name of the op, for the error.
        table: Name -> backend, the preferred one first.
        name: "auto" for what `asking` says or else the first that can serve this call; or a name.
        arguments: What decides whether a backend can serve.

    Raises:
        ValueError: There is no such backend, or it cannot serve this call.
    """
    if name == "auto":
        if _asked not in table:
            return _first(op, table, arguments)
        name = _asked
    if name not in table:
        raise ValueError(f"{op} has no backend {name!r} here; there are auto, {', '.join(table)}")
    reason = table[name].refuses(*arguments, asked=True)
    if reason is not None:
        raise ValueError(f"{op}: backend {name!r} cannot be used: {reason}; backend 'auto' takes what can")
    return table[name].run


def _first(op: str, table: Mapping[str, Backend[Run]], arguments: tuple[object, ...]) -> Run:
    exporting = torch.compiler.is_exporting() or torch.jit.is_tracing()
    for name, candidate in table.items():
        if exporting and candidate.absence is not None:
            continue
        if candidate.refuses(*arguments, asked=False) is None:
            _say(op, name)
            return candidate.run
    raise AssertionError(f"no backend of {op} serves all calls")


def _say(op: str, name: str) -> None:
    if torch.compiler.is_compiling() or (op, name) in _said:
        return
    _said.add((op, name))
    _LOG.info("%s is computed by backend %s", op, name)


@contextmanager
def asking(name: str) -> Iterator[None]:
    """Let "auto" mean `name` inside a `with`, for the ops that have such a backend, in all threads."""
    global _asked
    before, _asked = _asked, name
    try:
        yield
    finally:
        _asked = before


def transformed() -> bool:
    """Tell whether torch.func or forward-mode differentiation is at work, which plain operations alone can follow."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def traced(x: Tensor) -> bool:
    """Tell whether a graph is being recorded, or shapes alone are asked for: no loop may depend on sizes there."""
    return torch.compiler.is_compiling() or torch.compiler.is_exporting() or torch.jit.is_tracing() or x.is_meta


# --- precision ---


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off for the device of `x` where it is on; elsewhere graphs are kept free of the switch."""
    return torch.autocast(x.device.type, enabled=False) if _autocasts(x) else nullcontext()


def _autocasts(x: Tensor) -> bool:
    kind = x.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def result_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    """Return the dtype of a layer's result: that of autocast where it is on, else that of the weights."""
    return torch.get_autocast_dtype(x.device.type) if _autocasts(x) else weight.dtype


def wide_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which `x` is computed: float32 at least."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


# --- functions with a backward of their own ---


@dataclass(frozen=True)
class Schema:
    """How torch's dispatcher knows an op; schemas are written out, since annotations may have been wrapped.

    Attributes:
        name: Name of the op behind "kanscan::".
        tensors: The tensors, such as "Tensor x, Tensor? bias".
        setting: The rest, such as "int order".
        fake: Like `forward`, on shapes alone.
        fake_backward: Like `backward`, on shapes alone; None where gradients lie in memory in row-major order.
        kept: How many results there are for backward alone.
        device: Type of the devices it is for, or None for any.
    """

    name: str
    tensors: str
    setting: str
    fake: Callable[..., Tensors]
    fake_backward: Callable[..., Tensors] | None = None
    kept: int = 0
    device: str | None = None


@dataclass(eq=False)
class Differentiable:
    """A function and its gradient, written once, as autograd, the dispatcher and second derivatives need them.

    Its first arguments are tensors, or None; the rest is its setting. The gradient of the gradient, which no kernel
    has, is that of `plain`.

    Attributes:
        forward: `(*tensors, *setting)` -> the results, then what backward needs beside the tensors.
        backward: `(grads, tensors, kept, setting, needs)` -> a gradient for each tensor, or None where `needs` says
            that none is needed. A gradient of a result may be None for zero, not all of them.
        plain: As `forward`, the results alone, by operations of torch that can be differentiated again.
        num_tensors: Number of tensors.
        num_results: Number of results.
        schema: How the dispatcher knows it, or None where it needs no kernel: then a graph is recorded from `plain`.
    """

    forward: Callable[..., Tensors]
    backward: Callable[..., Tensors]
    plain: Callable[..., Tensors]
    num_tensors: int
    num_results: int = 1
    schema: Schema | None = None
    _registered: CustomOpDef = field(init=False)
    _registered_backward: CustomOpDef = field(init=False)

    def __post_init__(self) -> None:
        if self.schema is not None:
            self._register(self.schema)

    def __call__(self, *inputs: Any) -> tuple[Tensor, ...]:
        """Return the results."""
        tensors = [t for t in inputs[: self.num_tensors] if t is not None]
        results: Any
        if not _directly(tensors):
            results = self.plain(*inputs) if self.schema is None else _as_tuple(self._registered(*inputs))
        elif torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            results = _Direct.apply(self, *inputs)
        else:
            results = self.forward(*inputs)
        return results[: self.num_results]

    def keep(self, ctx: Any, inputs: Sequence[Any], output: Tensors) -> None:
        """Save what backward needs."""
        ctx.save_for_backward(*inputs[: self.num_tensors], *output[self.num_results :])
        ctx.setting = inputs[self.num_tensors :]
        ctx.set_materialize_grads(False)

    def gradients(self, ctx: Any, needed: Sequence[bool], grads: Tensors, backward: Callable[..., Tensors]) -> Tensors:
        """Return the gradients of all inputs, by `backward` or, where they are to be differentiated, by `plain`."""
        rest = (None,) * len(ctx.setting)
        if all(g is None for g in grads):
            return (None,) * self.num_tensors + rest
        # Unpacked once: checkpointing hands saved tensors out a single time.
        saved = ctx.saved_tensors
        tensors, kept = saved[: self.num_tensors], saved[self.num_tensors :]
        needs = tuple(needed[: self.num_tensors])
        if torch.is_grad_enabled():
            found = self._again(grads, tensors, ctx.setting, needs)
        else:
            found = backward(tuple(grads), tensors, kept, ctx.setting, needs)
        cast = (
            g.to(t.dtype) if need and g is not None and t is not None else None
            for g, t, need in zip(found, tensors, needs, strict=True)
        )
        return (*cast, *rest)

    def _again(self, grads: Tensors, tensors: Sequence[Any], setting: Sequence[Any], needs: Sequence[bool]) -> Tensors:
        """Return the gradients as functions of everything they depend on."""
        # Views of their own: a tensor that is passed twice has two gradients.
        own = [t.view_as(t) if need else t for t, need in zip(tensors, needs, strict=True)]
        results = zip(self.plain(*own, *setting), grads, strict=True)
        pairs = [(y, g.to(y.dtype)) for y, g in results if y is not None and g is not None and y.requires_grad]
        if not pairs:
            return (None,) * len(own)
        wanted = [t for t, need in zip(own, needs, strict=True) if need]
        options: dict[str, bool] = {"create_graph": True, "allow_unused": True}
        found = iter(torch.autograd.grad([y for y, _ in pairs], wanted, [g for _, g in pairs], **options))
        return [next(found) if need else None for need in needs]

    def _register(self, schema: Schema) -> None:
        results = self.num_results
        given = ", ".join(f"Tensor? grad_{i}" for i in range(results))
        kept = "".join(f", Tensor kept_{i}" for i in range(schema.kept))
        returned = ", ".join(["Tensor"] * (results + schema.kept))
        fake_backward = schema.fake_backward or _row_major

        def forward(*inputs: Any) -> Any:
            return _as_returned(self.forward(*inputs))

        def backward(*flat: Any) -> list[Tensor]:
            return _filled(self.backward(*self._grouped(flat)), *flat[results : results + self.num_tensors], flat[-1])

        def fake(*inputs: Any) -> Any:
            return _as_returned(schema.fake(*inputs))

        def fake_gradients(*flat: Any) -> list[Tensor]:
            return _filled(fake_backward(*self._grouped(flat)), *flat[results : results + self.num_tensors], flat[-1])

        def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            self.keep(ctx, inputs, _as_tuple(output))

        def differentiate(ctx: Any, *grads: Tensor | None) -> Tensors:
            return self.gradients(ctx, ctx.needs_input_grad, grads[:results], self._through_dispatcher)

        define: Any = partial(torch.library.custom_op, mutates_args=(), device_types=schema.device)
        own = f"{schema.tensors}, {schema.setting}"
        self._registered = define(f"kanscan::{schema.name}", forward, schema=f"({own}) -> ({returned})")
        self._registered.register_fake(fake)
        self._registered.register_autograd(differentiate, setup_context=setup)
        own = f"{given}, {schema.tensors}{kept}, {schema.setting}, bool[] needs"
        self._registered_backward = define(f"kanscan::{schema.name}_backward", backward, schema=f"({own}) -> Tensor[]")
        self._registered_backward.register_fake(fake_gradients)

    def _grouped(self, flat: Sequence[Any]) -> tuple[tuple[Any, ...], ...]:
        """Return (grads, tensors, kept, setting, needs) of the flat arguments that the dispatcher passes."""
        assert self.schema is not None
        *given, needs = flat
        first, second = self.num_results, self.num_results + self.num_tensors
        third = second + self.schema.kept
        return (
            tuple(given[:first]),
            tuple(given[first:second]),
            tuple(given[second:third]),
            tuple(given[third:]),
            tuple(needs),
        )

    def _through_dispatcher(
        self, grads: Tensors, tensors: Tensors, kept: Tensors, setting: Sequence[Any], needs: Sequence[bool]
    ) -> Tensors:
        found = self._registered_backward(*grads, *tensors, *kept, *setting, list(needs))
        return [g if need else None for g, need in zip(found, needs, strict=True)]


class _Direct(torch.autograd.Function):
    """A `Differentiable` without torch's dispatcher, which costs a fifth of a millisecond a call."""

    @staticmethod
    def forward(ctx: Any, of: Differentiable, *inputs: Any) -> tuple[Tensor | None, ...]:
        output = of.forward(*inputs)
        of.keep(ctx, inputs, output)
        ctx.of = of
        return tuple(output[: of.num_results])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return (None, *ctx.of.gradients(ctx, ctx.needs_input_grad[1:], grads, ctx.of.backward))


def _directly(tensors: Sequence[Tensor]) -> bool:
    """Tell whether an op can be computed without torch's dispatcher.

    Graphs that are recorded, transforms, tensors of other classes or without memory (a training is sized on them before
    it starts), and whoever listens to the dispatcher need the registered op.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or is_in_torch_dispatch_mode() or transformed():
        return False
    return all(type(t) in (Tensor, torch.nn.Parameter) and not t.is_meta for t in tensors)


def _row_major(
    grads: Tensors, tensors: Tensors, kept: Tensors, setting: Sequence[Any], needs: Sequence[bool]
) -> Tensors:
    return [None if t is None else t.new_empty(t.shape, dtype=torch.float32) for t in tensors]


def _filled(found: Tensors, *rest: Any) -> list[Tensor]:
    """Put a fresh empty tensor in the place of each gradient that is not needed: results must not share memory."""
    *tensors, needs = rest
    like = next(t for t in tensors if t is not None)
    return [g if need and g is not None else like.new_empty(0) for g, need in zip(found, needs, strict=True)]


def _as_tuple(output: Any) -> tuple[Any, ...]:
    return (output,) if isinstance(output, Tensor) else tuple(output)


def _as_returned(output: Tensors) -> Any:
    return output[0] if len(output) == 1 else tuple(output)
