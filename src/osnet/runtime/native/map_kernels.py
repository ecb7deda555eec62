"""The kernels that are not convolutions: reading pixels, pooling, gates. ``conv_kernels.py`` says what they share.

Each function writes the body of one kernel. Its docstring lists the step's arguments in order.
"""

from typing import Any

from llvmlite import ir

from osnet.runtime.native.llvm import F32, I8, I32, PTR, Writer


def widen(w: Writer, kind: Any) -> None:
    """Planes of pixels -> (H, W, 3) minus the mean, inside a border of zeros. Step: out, H, W, out_row, mean (3)."""
    b = w.b
    lanes = 16
    out, height, width, out_row, mean = w.address(0), w.argument(1), w.argument(2), w.argument(3), w.constant(4)
    size = 1 if kind == I8 else 4
    image = b.load(w.function.args[1], typ=PTR)
    plane = b.mul(b.mul(height, width), w.number(size))
    means = [w.spread(w.load(w.at(mean, 4 * c), F32), lanes) for c in range(3)]
    wide = ir.VectorType(F32, lanes)
    first, last = w.my_share(height)
    with w.loop(first, last) as y, w.loop(0, width, lanes) as x:
        place = b.mul(b.add(b.mul(y, width), x), w.number(size))
        colours = []
        for c in range(3):
            raw = w.load(w.at(image, b.mul(plane, w.number(c)), place), ir.VectorType(kind, lanes))
            colours.append(b.fsub(b.uitofp(raw, wide) if kind == I8 else raw, means[c]))
        pair = b.shuffle_vector(
            colours[0], colours[1], ir.Constant(ir.VectorType(I32, 2 * lanes), list(range(2 * lanes)))
        )
        third = b.shuffle_vector(
            colours[2], colours[2], ir.Constant(ir.VectorType(I32, 2 * lanes), [*range(lanes)] * 2)
        )
        order = [(n % 3) * lanes + n // 3 for n in range(3 * lanes)]
        mixed = b.shuffle_vector(pair, third, ir.Constant(ir.VectorType(I32, 3 * lanes), order))
        w.store(mixed, w.at(out, b.mul(y, out_row), b.mul(x, w.number(12))))


def _window(w: Writer, corner: Any, in_row: Any, px: Any, size: int) -> list[Any]:
    """``size`` x ``size`` pixels from ``corner``, row by row."""
    places = [(w.b.mul(in_row, w.number(y)), w.b.mul(px, w.number(x))) for y in range(size) for x in range(size)]
    return [w.load(w.at(corner, *place), w.vector) for place in places]


def max_pool(w: Writer) -> None:
    """Max pool 3x3, stride 2. Step: in, out, out rows, out px, in_row, bytes of a pixel.

    ``in`` has a border of zeros above and to the left.
    """
    b = w.b
    source, out, rows, width = w.address(0), w.address(1), w.argument(2), w.argument(3)
    in_row, px = w.argument(4), w.argument(5)
    first, last = w.my_share(rows)
    with w.loop(first, last) as y, w.loop(0, width) as x, w.loop(0, px, w.bytes) as c:
        corner = w.at(source, b.mul(y, b.mul(in_row, w.number(2))), b.mul(x, b.mul(px, w.number(2))), c)
        values = _window(w, corner, in_row, px, 3)
        while len(values) > 1:
            first, second = values[:2]
            kept = b.select(
                b.fcmp_unordered("uno", first, first), first, w.larger(first, second)
            )  # NaN propagates, as in PyTorch
            values = [kept, *values[2:]]
        w.store(values[0], w.at(out, b.mul(b.add(b.mul(y, width), x), px), c))


def average_pool(w: Writer) -> None:
    """Average pool 2x2, stride 2. Step: in, out, out rows, out px, bytes of a pixel."""
    b = w.b
    source, out, rows, width, px = w.address(0), w.address(1), w.argument(2), w.argument(3), w.argument(4)
    in_row = b.mul(b.mul(width, px), w.number(2))
    quarter = ir.Constant(w.vector, [0.25] * w.lanes)
    first, last = w.my_share(rows)
    with w.loop(first, last) as y, w.loop(0, width) as x, w.loop(0, px, w.bytes) as c:
        corner = w.at(source, b.mul(y, b.mul(in_row, w.number(2))), b.mul(x, b.mul(px, w.number(2))), c)
        values = _window(w, corner, in_row, px, 2)
        total = b.fadd(b.fadd(values[0], values[1]), b.fadd(values[2], values[3]))
        w.store(b.fmul(total, quarter), w.at(out, b.mul(b.add(b.mul(y, width), x), px), c))


def sum_pixels(w: Writer, source: Any, number: Any, px: Any, c: Any) -> Any:
    """The sum of one vector of channels over ``number`` pixels, a multiple of 4: there are four partial sums."""
    b = w.b
    zero = ir.Constant(w.vector, [0.0] * w.lanes)
    sums = [w.slot(w.vector, zero) for _ in range(4)]
    for place in sums:
        b.store(zero, place)
    with w.loop(0, number, 4) as pixel:
        for n, place in enumerate(sums):
            value = w.load(w.at(source, b.mul(b.add(pixel, w.number(n)), px), c), w.vector)
            b.store(b.fadd(b.load(place, typ=w.vector), value), place)
    parts = [b.load(place, typ=w.vector) for place in sums]
    return b.fadd(b.fadd(parts[0], parts[1]), b.fadd(parts[2], parts[3]))


def mean(w: Writer) -> None:
    """The mean of each channel. Step: in, out, pixels (a multiple of 4), bytes of a pixel."""
    number, px = w.argument(2), w.argument(3)
    share = w.spread(w.b.fdiv(ir.Constant(F32, 1.0), w.b.sitofp(number, F32)), w.lanes)
    with w.loop(0, px, w.bytes) as c:
        total = sum_pixels(w, w.address(0), number, px, c)
        w.store(w.b.fmul(total, share), w.at(w.address(1), c))


def gate(w: Writer) -> None:
    """The gate of one stream. Step: pooled, out, bytes of a pixel, w1 (hidden, C), b1, hidden, w2 (hidden, C), b2."""
    b = w.b
    pooled, out, px = w.address(0), w.address(1), w.argument(2)
    w1, b1, hidden, w2, b2 = w.constant(3), w.constant(4), w.argument(5), w.constant(6), w.constant(7)
    with w.loop(0, px, w.bytes) as c:
        w.store(w.load(w.at(b2, c), w.vector), w.at(out, c))
    total = w.slot(w.vector, ir.Constant(w.vector, [0.0] * w.lanes))
    with w.loop(0, hidden) as j:
        row = b.mul(j, px)
        b.store(ir.Constant(w.vector, [0.0] * w.lanes), total)
        with w.loop(0, px, w.bytes) as c:
            part = b.fmul(w.load(w.at(pooled, c), w.vector), w.load(w.at(w1, row, c), w.vector))
            b.store(b.fadd(b.load(total, typ=w.vector), part), total)
        value = w.load(w.at(b1, b.mul(j, w.number(4))), F32)
        vector = b.load(total, typ=w.vector)
        for lane in range(w.lanes):
            value = b.fadd(value, b.extract_element(vector, ir.Constant(I32, lane)))
        value = w.spread(w.larger(ir.Constant(F32, 0.0), value), w.lanes)
        with w.loop(0, px, w.bytes) as c:
            so_far = w.load(w.at(out, c), w.vector)
            w.store(w.fma(value, w.load(w.at(w2, row, c), w.vector), so_far), w.at(out, c))
    exp = w.module.declare_intrinsic("llvm.exp", [F32])
    one = ir.Constant(F32, 1.0)
    with w.loop(0, px, 4) as c:
        power = b.call(exp, [b.fneg(w.load(w.at(out, c), F32))])
        w.store(b.fdiv(one, b.fadd(one, power)), w.at(out, c))


def weigh(w: Writer, streams: int) -> None:
    """The sum of T streams, each times its gate.

    Step: gates (T, C), out, rows, pixels of a row, bytes of a pixel, T streams.
    """
    b = w.b
    gates, out, rows, width, px = w.address(0), w.address(1), w.argument(2), w.argument(3), w.argument(4)
    sources = [w.address(5 + t) for t in range(streams)]
    first, last = w.my_share(b.mul(rows, width))
    with w.loop(0, px, w.bytes) as c:
        factors = [w.load(w.at(gates, b.mul(px, w.number(t)), c), w.vector) for t in range(streams)]
        with w.loop(first, last) as pixel:
            place = b.add(b.mul(pixel, px), c)
            total = b.fmul(w.load(w.at(sources[0], place), w.vector), factors[0])
            for source, factor in zip(sources[1:], factors[1:], strict=True):
                total = w.fma(w.load(w.at(source, place), w.vector), factor, total)
            w.store(total, w.at(out, place))


def copy(w: Writer) -> None:
    """Copy the embedding to the caller's memory. Step: in, bytes."""
    b = w.b
    target = b.load(w.at(w.function.args[1], 8), typ=PTR)
    with w.loop(0, w.argument(1), 4) as at:
        w.store(w.load(w.at(w.address(0), at), F32), w.at(target, at))
