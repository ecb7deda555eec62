"""Kernels of an OSNet for the present processor, compiled by LLVM when a network is loaded.

Feature maps are float32 (H, W, C) in memory. A kernel is a function of (step, arena, thread, threads). ``step`` is 20
integers of 64 bits, which ``program.py`` writes. ``arena`` is the working memory of one image; it begins with two
addresses, of the image and of its embedding. Offsets and strides are in bytes. Threads split a kernel's work by rows.

Two ideas make the kernels fast. Sums of up to eight pixels by three vectors stay in registers, for every layer
(``_write_strip``). A Lite 3x3 is one pass (``_lite``): each row of its pointwise convolution goes into a ring buffer of
three rows, which stays in the first-level cache, and the depthwise convolution reads it there.
"""

import ctypes
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from llvmlite import binding, ir

from osnet.runtime.native import map_kernels
from osnet.runtime.native.llvm import F32, I8, I32, I64, KERNEL, PTR, STEP_WORDS, Writer, compile_module, host_features

SPINS = 2000
"""Reads of a barrier before a thread yields its core."""
_WORD = ctypes.c_int64
_RUN = ctypes.CFUNCTYPE(None, *[_WORD] * 11)  # ctypes releases Python's lock meanwhile


class Kernels:
    """All kernels for one vector length.

    Args:
        lanes: floats in a vector; a divisor of every number of channels.
        pixels: number of pixels whose sums are in registers at once, with up to three vectors each.
    """

    def __init__(self, lanes: int, pixels: int) -> None:
        self.lanes, self.pixels = lanes, pixels
        self.vector, self.bytes = ir.VectorType(F32, lanes), 4 * lanes
        self.module = ir.Module()
        self.module.triple = binding.get_default_triple()
        self.strips = {
            (vectors, width): self._write_strip(vectors, width) for vectors in (1, 2, 3) for width in (1, pixels)
        }
        writers: dict[str, Callable[[Writer], None]] = {
            "widen_uint8": partial(map_kernels.widen, kind=I8),
            "widen_float": partial(map_kernels.widen, kind=F32),
            "convolve": self._convolve,
            "lite": self._lite,
            "max_pool": map_kernels.max_pool,
            "average_pool": map_kernels.average_pool,
            "mean": map_kernels.mean,
            "gate": map_kernels.gate,
            "copy": map_kernels.copy,
            **{f"weigh_{t}": partial(map_kernels.weigh, streams=t) for t in (1, 2, 3, 4)},
        }
        self.functions: list[ir.Function] = []
        for name, write in writers.items():
            writer = Writer(self.module, name, KERNEL, lanes)
            write(writer)
            writer.b.ret_void()
            self.functions.append(writer.function)
        self.names = list(writers)
        self._write_run()
        self._engine = compile_module(str(self.module))
        self.run = _RUN(self._engine.get_function_address("run"))

    def _write_strip(self, vectors: int, width: int) -> ir.Function:
        """A function that multiplies ``count`` pixels (a multiple of ``width``) by a block of weights, in registers.

        Arguments: a, a_px, segments, segment, k, weights, bias, out, out_px, residual, floor, count. The input of a
        pixel is ``segments`` runs of ``k`` floats; ``residual`` may be 0; results below ``floor`` become ``floor``.
        """
        kind = ir.FunctionType(ir.VoidType(), [PTR, I64, I64, I64, I64, PTR, PTR, PTR, I64, PTR, F32, I64])
        w = Writer(self.module, f"strip_{vectors}_{width}", kind, self.lanes)
        w.function.linkage = "internal"
        a, a_px, segments, segment, k, weights, bias, out, out_px, residual, floor, count = w.function.args
        b = w.b
        lowest = w.spread(floor, self.lanes)
        has_residual = b.icmp_unsigned("!=", b.ptrtoint(residual, I64), w.number(0))
        starts = [w.load(w.at(bias, v * self.bytes), self.vector) for v in range(vectors)]
        sums = [[w.slot(self.vector, starts[v]) for v in range(vectors)] for _ in range(width)]
        with w.loop(0, count, width) as pixel:
            inputs = [w.at(a, b.mul(b.add(pixel, w.number(p)), a_px)) for p in range(width)]
            for row in sums:
                for place, start in zip(row, starts, strict=True):
                    b.store(start, place)
            with w.loop(0, segments) as s:
                run = [w.at(address, b.mul(s, segment)) for address in inputs]
                block = w.at(weights, b.mul(b.mul(s, k), w.number(vectors * self.bytes)))
                with w.loop(0, k) as i:
                    row_of_weights = w.at(block, b.mul(i, w.number(vectors * self.bytes)))
                    factors = [w.load(w.at(row_of_weights, v * self.bytes), self.vector) for v in range(vectors)]
                    for p in range(width):
                        value = w.spread(w.load(w.at(run[p], b.mul(i, w.number(4))), F32), self.lanes)
                        for v in range(vectors):
                            b.store(w.fma(value, factors[v], b.load(sums[p][v], typ=self.vector)), sums[p][v])
            places = [w.at(out, b.mul(b.add(pixel, w.number(p)), out_px)) for p in range(width)]
            with b.if_then(has_residual):
                for p in range(width):
                    beside = w.at(residual, b.mul(b.add(pixel, w.number(p)), out_px))
                    for v in range(vectors):
                        total = b.fadd(
                            b.load(sums[p][v], typ=self.vector), w.load(w.at(beside, v * self.bytes), self.vector)
                        )
                        b.store(total, sums[p][v])
            for p in range(width):
                for v in range(vectors):
                    total = w.larger(lowest, b.load(sums[p][v], typ=self.vector))
                    w.store(total, w.at(places[p], v * self.bytes))
        b.ret_void()
        return w.function

    def _row(self, w: Writer, blocks: tuple[Any, Any, Any], shape: list[Any], operands: list[Any], px: Any) -> None:
        """Multiply a row of pixels by all weights, in blocks of three, two and one vectors of output channels.

        ``shape``: a_px, segments, segment, k. ``operands``: a, weights, bias, out, out_px, residual, floor.
        """
        b = w.b
        a_px, segments, segment, k = shape
        a, weights, bias, out, out_px, residual, floor = operands
        whole = b.mul(b.sdiv(px, w.number(self.pixels)), w.number(self.pixels))
        rest = b.sub(px, whole)
        has_residual = b.icmp_unsigned("!=", b.ptrtoint(residual, I64), w.number(0))
        done = w.slot(I64, w.number(0))  # bytes of output channels
        taps = b.mul(segments, k)
        for vectors, number in zip((3, 2, 1), blocks, strict=True):
            with w.loop(0, number) as _:
                at = b.load(done, typ=I64)
                block = w.at(weights, b.mul(at, taps))
                beside = b.select(has_residual, w.at(residual, at), residual)
                for width, start, count in ((self.pixels, w.number(0), whole), (1, whole, rest)):
                    moved = b.mul(start, out_px)
                    b.call(
                        self.strips[vectors, width],
                        [
                            w.at(a, b.mul(start, a_px)),
                            a_px,
                            segments,
                            segment,
                            k,
                            block,
                            w.at(bias, at),
                            w.at(out, at, moved),
                            out_px,
                            b.select(has_residual, w.at(beside, moved), beside),
                            floor,
                            count,
                        ],
                    )
                b.store(b.add(at, w.number(vectors * self.bytes)), done)

    def _convolve(self, w: Writer) -> None:
        """Convolution of pixels, with bias, an optional residual and an optional ReLU.

        Step: a, a_row, a_px, segments, segment, k, weights, bias, out, out_row, out_px, rows, px, residual, relu,
        blocks. ``residual`` is -1 or the offset of a map with the strides of ``out``. ``blocks`` packs the numbers of
        blocks of three, two and one vectors into its lowest three groups of 16 bits.
        """
        b = w.b
        a, a_row, out, out_row = w.address(0), w.argument(1), w.address(8), w.argument(9)
        shape = [w.argument(place) for place in (2, 3, 4, 5)]
        has_residual = b.icmp_signed(">=", w.argument(13), w.number(0))
        floor = b.select(
            b.icmp_signed("!=", w.argument(14), w.number(0)), ir.Constant(F32, 0.0), ir.Constant(F32, float("-inf"))
        )
        blocks = self._blocks(w, w.argument(15))
        first, last = w.my_share(w.argument(11))
        with w.loop(first, last) as y:
            moved = b.mul(y, out_row)
            beside = b.select(has_residual, w.at(w.address(13), moved), ir.Constant(PTR, None))
            operands = [
                w.at(a, b.mul(y, a_row)),
                w.constant(6),
                w.constant(7),
                w.at(out, moved),
                w.argument(10),
                beside,
                floor,
            ]
            self._row(w, blocks, shape, operands, w.argument(12))

    def _blocks(self, w: Writer, packed: Any) -> tuple[Any, Any, Any]:
        low = w.number(0xFFFF)
        threes, twos, ones = (w.b.and_(w.b.lshr(packed, w.number(16 * n)), low) for n in range(3))
        return threes, twos, ones

    def _lite(self, w: Writer) -> None:
        """A Lite 3x3: pointwise convolution, depthwise 3x3, bias, ReLU.

        Step: in, out, H, W, bytes of a pixel, pointwise weights, zeros, depthwise (9, C), bias, ring, bytes of a ring,
        blocks. A ring is three rows of W + 2 pixels, then a row of zeros. Each thread has its own.
        """
        b = w.b
        source, out, height, width, px = w.address(0), w.address(1), w.argument(2), w.argument(3), w.argument(4)
        pitch = b.mul(b.add(width, w.number(2)), px)
        ring = w.at(w.address(9), b.mul(w.function.args[2], w.argument(10)))
        zeros = w.at(ring, b.mul(pitch, w.number(3)))
        blocks = self._blocks(w, w.argument(11))
        no_residual, floor = ir.Constant(PTR, None), ir.Constant(F32, float("-inf"))
        k = b.sdiv(px, w.number(4))
        in_row = b.mul(width, px)
        slot = w.slot(I64, w.number(0))  # the ring's slot for the next row
        above, middle = w.slot(PTR, zeros), w.slot(PTR, zeros)
        with w.loop(0, b.add(height, w.number(1))) as y:
            at = b.load(slot, typ=I64)
            row = w.at(ring, b.mul(at, pitch))
            exists = b.icmp_signed("<", y, height)
            with b.if_then(exists):
                operands = [
                    w.at(source, b.mul(y, in_row)),
                    w.constant(5),
                    w.constant(6),
                    w.at(row, px),
                    px,
                    no_residual,
                    floor,
                ]
                self._row(w, blocks, [px, w.number(1), w.number(0), k], operands, width)
            below = b.select(exists, row, zeros)
            with b.if_then(b.icmp_signed(">", y, w.number(0))):
                rows = [b.load(above, typ=PTR), b.load(middle, typ=PTR), below]
                self._depthwise(w, rows, w.at(out, b.mul(b.sub(y, w.number(1)), in_row)))
            b.store(b.load(middle, typ=PTR), above)
            b.store(below, middle)
            following = b.add(at, w.number(1))
            b.store(b.select(b.icmp_signed("==", following, w.number(3)), w.number(0), following), slot)

    def _depthwise(self, w: Writer, rows: list[Any], out: Any) -> None:
        """One row of a depthwise 3x3, bias and ReLU. Four pixels at a time share their loads."""
        b = w.b
        width, px, weights, bias = w.argument(3), w.argument(4), w.constant(7), w.constant(8)
        whole = b.mul(b.sdiv(width, w.number(4)), w.number(4))
        zero = ir.Constant(self.vector, [0.0] * self.lanes)
        with w.loop(0, px, self.bytes) as c:
            taps = [w.load(w.at(weights, b.mul(px, w.number(tap)), c), self.vector) for tap in range(9)]
            start = w.load(w.at(bias, c), self.vector)
            for number, first, last in ((4, w.number(0), whole), (1, whole, width)):
                with w.loop(first, last, number) as x:
                    sums = [start] * number
                    left = b.add(b.mul(x, px), c)
                    for row in range(3):
                        for column in range(number + 2):
                            value = w.load(w.at(rows[row], left, b.mul(px, w.number(column))), self.vector)
                            for p in range(max(0, column - 2), min(number, column + 1)):
                                sums[p] = w.fma(value, taps[3 * row + column - p], sums[p])
                    for p in range(number):
                        w.store(w.larger(zero, sums[p]), w.at(out, left, b.mul(px, w.number(p))))

    def _write_run(self) -> None:
        """(steps, number, arena, images, bytes of one, out, bytes of one, count, thread, threads, counter).

        Runs all steps for each image. Threads that share an image synchronise at ``counter``, which must start at 0.
        """
        kind = ir.FunctionType(ir.VoidType(), [PTR, I64, PTR, PTR, I64, PTR, I64, I64, I64, I64, PTR])
        w = Writer(self.module, "run", kind, self.lanes)
        b = w.b
        steps, number, arena, images, image_bytes, out, out_bytes, count, thread, threads, counter = w.function.args
        met = w.slot(I64, w.number(0))
        with w.loop(0, count) as n:
            b.store(w.at(images, b.mul(n, image_bytes)), arena)
            b.store(w.at(out, b.mul(n, out_bytes)), w.at(arena, 8))
            with w.loop(0, number) as s:
                step = w.at(steps, b.mul(s, w.number(8 * STEP_WORDS)))
                kernel, owner, wait = (b.load(w.at(step, 8 * place), typ=I64) for place in range(3))
                several = b.icmp_signed(">", threads, w.number(1))
                mine = b.or_(b.icmp_signed("<", owner, w.number(0)), b.icmp_signed("==", owner, thread))
                mine = b.or_(mine, b.not_(several))
                with b.if_then(mine):
                    self._call(w, kernel, [step, arena, thread, threads])
                with b.if_then(b.and_(several, b.icmp_signed("!=", wait, w.number(0)))):
                    target = b.add(b.load(met, typ=I64), threads)
                    b.store(target, met)
                    self._wait(w, counter, target)
        b.ret_void()

    def _call(self, w: Writer, kernel: Any, arguments: list[Any]) -> None:
        """Call the kernel with this number."""
        after = w.b.append_basic_block()
        choice = w.b.switch(kernel, after)
        for number, function in enumerate(self.functions):
            block = w.b.append_basic_block()
            choice.add_case(w.number(number), block)
            w.b.position_at_end(block)
            w.b.call(function, arguments)
            w.b.branch(after)
        w.b.position_at_end(after)

    def _wait(self, w: Writer, counter: Any, target: Any) -> None:
        """Add 1 to ``counter``, then wait until it has reached ``target``."""
        b = w.b
        b.atomic_rmw("add", counter, w.number(1), "seq_cst")
        looks = w.slot(I64, w.number(0))
        b.store(w.number(0), looks)
        look, again, done = (b.append_basic_block() for _ in range(3))
        b.branch(look)
        b.position_at_end(look)
        b.cbranch(b.icmp_signed(">=", b.load_atomic(counter, "seq_cst", 8, typ=I64), target), done, again)
        b.position_at_end(again)
        b.store(b.add(b.load(looks, typ=I64), w.number(1)), looks)
        others_first = ir.Function(self.module, ir.FunctionType(I32, []), "sched_yield")
        with b.if_then(b.icmp_signed(">", b.load(looks, typ=I64), w.number(SPINS))):
            b.call(others_first, [])
        b.branch(look)
        b.position_at_end(done)


@cache
def kernels(lanes: int) -> Kernels:
    """The kernels for vectors of ``lanes`` floats, compiled once per process."""
    wide = host_features().get("avx512vl", False)  # AVX-512 has 32 registers instead of 16
    return Kernels(lanes, 8 if wide else 4)
