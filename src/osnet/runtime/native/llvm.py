"""Writing functions in LLVM's intermediate language and compiling them for the present processor."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import binding, ir

I8, I32, I64, F32 = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
PTR = ir.PointerType()
KERNEL = ir.FunctionType(ir.VoidType(), [PTR, PTR, I64, I64])
STEP_WORDS = 20
OUTSIDE = ("expf", "sched_yield", "memcpy", "memset")
"""Functions of the C library that the machine code may call. LLVM turns loops into the last two."""
FIRST_ARGUMENT = 3
"""Integers before a step's arguments: kernel number, thread that runs it (-1: all), whether all wait after it."""


class Writer:
    """Writes one function; its methods are the operations that the kernels consist of."""

    def __init__(self, module: ir.Module, name: str, kind: ir.FunctionType, lanes: int) -> None:
        self.module, self.lanes = module, lanes
        self.vector, self.bytes = ir.VectorType(F32, lanes), 4 * lanes
        self.function = ir.Function(module, kind, name)
        self.b: Any = ir.IRBuilder(self.function.append_basic_block())

    def number(self, value: int) -> Any:
        """A constant integer of 64 bits."""
        return ir.Constant(I64, value)

    def at(self, base: Any, *offsets: Any) -> Any:
        """The address ``base`` plus offsets in bytes."""
        for offset in offsets:
            base = self.b.gep(base, [offset if not isinstance(offset, int) else self.number(offset)], source_etype=I8)
        return base

    def load(self, address: Any, kind: Any) -> Any:
        """Load a number or a vector, aligned to its elements only."""
        value = self.b.load(address, typ=kind)
        value.align = 1 if kind == I8 or getattr(kind, "element", None) == I8 else 4
        return value

    def store(self, value: Any, address: Any) -> None:
        """Store a number or a vector, aligned to float32."""
        self.b.store(value, address).align = 4

    def argument(self, place: int) -> Any:
        """The step's argument number ``place``."""
        return self.b.load(self.at(self.function.args[0], 8 * (FIRST_ARGUMENT + place)), typ=I64)

    def address(self, place: int) -> Any:
        """The address of a map in the arena, whose offset is argument ``place``."""
        return self.at(self.function.args[1], self.argument(place))

    def constant(self, place: int) -> Any:
        """The address of a tensor of the network, argument ``place``."""
        return self.b.inttoptr(self.argument(place), PTR)

    def slot(self, kind: Any, value: Any) -> Any:
        """A variable with an initial value. LLVM keeps it in a register."""
        with self.b.goto_entry_block():
            place = self.b.alloca(kind)
        self.b.store(value, place)
        return place

    def spread(self, value: Any, lanes: int) -> Any:
        """A vector whose elements all are ``value``."""
        kind = ir.VectorType(F32, lanes)
        one = self.b.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(I32, 0))
        return self.b.shuffle_vector(one, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(I32, lanes), None))

    def fma(self, a: Any, c: Any, addend: Any) -> Any:
        """a * c + addend, element-wise, rounded once."""
        name = f"llvm.fma.v{a.type.count}f32"
        if name not in self.module.globals:
            ir.Function(self.module, ir.FunctionType(a.type, [a.type] * 3), name)
        return self.b.call(self.module.globals[name], [a, c, addend])

    def larger(self, a: Any, b: Any) -> Any:
        """The element-wise maximum; ``b`` where one of the two is NaN."""
        return self.b.select(self.b.fcmp_ordered(">", a, b), a, b)

    def my_share(self, rows: Any) -> tuple[Any, Any]:
        """This thread's share of ``rows``: first row, and last row + 1."""
        _, _, thread, threads = self.function.args
        first = self.b.sdiv(self.b.mul(rows, thread), threads)
        return first, self.b.sdiv(self.b.mul(rows, self.b.add(thread, self.number(1))), threads)

    @contextmanager
    def loop(self, start: Any, stop: Any, step: int = 1) -> Iterator[Any]:
        """A loop: the code written inside runs for start, start + step, ... below stop."""
        start, stop = (self.number(v) if isinstance(v, int) else v for v in (start, stop))
        before, head = self.b.block, self.b.append_basic_block()
        body, done = self.b.append_basic_block(), self.b.append_basic_block()
        self.b.branch(head)
        self.b.position_at_end(head)
        index = self.b.phi(I64)
        index.add_incoming(start, before)
        self.b.cbranch(self.b.icmp_signed("<", index, stop), body, done)
        self.b.position_at_end(body)
        yield index
        index.add_incoming(self.b.add(index, self.number(step)), self.b.block)
        self.b.branch(head)
        self.b.position_at_end(done)


def compile_module(text: str) -> Any:
    """Compile LLVM assembly for this processor. Keep the engine that is returned: it owns the code."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    module = binding.parse_assembly(text)
    module.verify()
    machine = make_machine()
    tuning = binding.create_pipeline_tuning_options(3)
    tuning.loop_vectorization = tuning.slp_vectorization = False  # the kernels are vectorised already
    passes = binding.create_pass_builder(machine, tuning)
    passes.getModulePassManager().run(module, passes)
    engine = binding.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine


def make_machine() -> Any:
    """This processor as an LLVM target. Features are given too, because a hypervisor may hide some."""
    features = binding.get_host_cpu_features().flatten() if host_features() else ""
    return binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(), features=features, opt=3
    )


def host_features() -> dict[str, bool]:
    """The features of this processor, by LLVM's names; empty where LLVM cannot detect them."""
    try:
        return dict(binding.get_host_cpu_features())
    except RuntimeError:
        return {}


def can_compile() -> bool:
    """True on 64-bit Linux and macOS on x86 with AVX2 and FMA, where this was tested."""
    if os.name != "posix" or sys.maxsize < 2**32:
        return False
    features = host_features()
    if not (features.get("fma") and features.get("avx2")):
        return False
    # Where these are missing (a statically linked Python, for instance), LLVM would abort the process when it links.
    here = ctypes.CDLL(None)
    return all(hasattr(here, name) for name in OUTSIDE)
