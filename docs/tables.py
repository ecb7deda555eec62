"""Write the tables of measured values into the pages, from ``benchmarks/results`` and the counted networks.

    python docs/tables.py             # replaces each table between <!-- NAME --> and <!-- end of NAME -->
    python docs/tables.py --check     # changes nothing; status 1 if a page differs

Two rows of README's table come from there, too. ``docs/results.md`` has a script of its own,
``benchmarks/results_page.py``.
"""

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from osnet.models.counting import TABLE_A, count_cost
from osnet.models.registry import VARIANTS, build_network, get_config
from osnet.recipes import get_recipe
from osnet.recipes.photos_cifar import ERRORS

ROOT = Path(__file__).parent.parent
README = "README.md"
ENTRANTS = {
    "osnet_x0_25": "OSNet x0.25 from scratch",
    "osnet_t1_x0_25": "single-scale T=1 x0.25 from scratch",
    "mobilenetv2_x0_25": "MobileNetV2 x0.25 from scratch",
    "osnet_x0_25_finetuned": "OSNet x0.25 from the MSMT17 checkpoint",
}


def results(name: str) -> Any:
    """The content of ``benchmarks/results/NAME``."""
    return json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))


def benchmark(name: str) -> ModuleType:
    """The module ``benchmarks/NAME.py``."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    if spec is None or spec.loader is None:
        raise SystemExit(f"benchmarks/{name}.py cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(value: float) -> str:
    """0.1234 -> 12.3."""
    return f"{100 * value:.1f}"


def attribute_scores() -> str:
    """The experiment on PA-100K's sample: a row per network, mean and range over seeds."""
    report = results("attributes.json")
    none = report["majority"]
    rows = [["majority answer, no image read", *(percent(none[key]) for key in ("mA", "F1", "mAP")), ""]]
    for name, title in ENTRANTS.items():
        over = report["over_seeds"][name]
        best, last = over["best epoch, at 0.5"], over["last epoch, at 0.5"]
        spread = [
            f"{percent(row['mean'])} ({percent(row['min'])} to {percent(row['max'])})"
            for row in (best[key] for key in ("mA", "F1", "mAP"))
        ]
        rows.append([title, *spread, ", ".join(percent(last[key]["mean"]) for key in ("mA", "F1"))])
    return table(["", "mA", "F1", "mean AP", "mA, F1 of the last epoch"], rows)


def attribute_thresholds() -> str:
    """Scores of the same runs with thresholds chosen on validation."""
    over = results("attributes.json")["over_seeds"]
    rows = []
    for name, title in ENTRANTS.items():
        ways = [over[name][f"best epoch, at validation's best {criterion}"] for criterion in ("mA", "F1")]
        rows.append([title, *(", ".join(percent(way[key]["mean"]) for key in ("mA", "F1")) for way in ways)])
    return table(["", "thresholds best for mA: mA, F1", "thresholds best for F1: mA, F1"], rows)


def searches(*names: str) -> str:
    """Searches by description; the first file's rows, and how many hits are right in each file."""
    reports = [results(name)["rows"] for name in names]
    heads = ["description", "right among the first 10", "by chance", "from scratch: right"][: 2 + len(names)]
    rows = []
    for row, *others in zip(*reports, strict=True):
        asked = ", ".join([*row["with"], *(f"not {name}" for name in row["without"])])
        rows.append([asked, str(row["right"]), f"{row['by_chance']:.1f}", *(str(other["right"]) for other in others)])
    chance = sum(row["by_chance"] for row in reports[0])
    right = [str(sum(row["right"] for row in report)) for report in reports]
    rows.append([f"all, of {10 * len(reports[0])}", right[0], f"{chance:.1f}", *right[1:]])
    return table(heads, rows)


def first_answers() -> str:
    """Processor seconds of a new process: ``import torch``, and what others take beyond it, before and now."""
    rows = results("first-answer-cpu.json")["rows"]
    cells = []
    for name in (name for name in rows if not name.startswith("old: ")):
        kind, title = (
            ("median_s", name) if name in ("import torch", "osnet --help") else ("beyond_torch_s", f"{name} *")
        )
        cells.append([title, *(f"{rows[key][kind]:.2f}" for key in (f"old: {name}", name))])
    return table(["", "before", "now"], cells)


def tracker() -> str:
    """Processor milliseconds per frame, for each number of boxes."""
    cells = results("tracker-cpu-osnet_x0_25.json")["cells"]
    ways = {
        "embed onnxruntime": "`Embedder.embed(Frame)`",
        "embed openvino": 'the same, `backend="openvino"`',
        "run onnxruntime": "ONNX Runtime alone",
        "run openvino": "OpenVINO alone",
        "prepare": "cutting and resizing alone",
        "prepare-by-Pillow": "cutting and resizing in a new process",
        "boxmot pt": "BoxMOT 25, `.pt`",
        "boxmot onnx": "BoxMOT 25, our `.onnx`",
        "torchreid": "Torchreid 0.2.5",
    }
    rows = [[title, *(f"{cell['rows'][way]['cpu_ms']:.1f}" for cell in cells)] for way, title in ways.items()]
    return table(["boxes", *(str(cell["boxes"]) for cell in cells)], rows)


def denormals() -> str:
    """Processor milliseconds per frame with the weights as released, and with tiny weights set to zero."""
    files = {"as released": "tracker-denormals-cpu-osnet_x0_25.json", "now": "tracker-cpu-osnet_x0_25.json"}
    cells = {when: results(name)["cells"] for when, name in files.items()}
    ways = {
        "run onnxruntime": "ONNX Runtime alone",
        "run openvino": "OpenVINO alone",
        "boxmot onnx": "BoxMOT 25, our `.onnx`",
    }
    rows = [
        [f"{title}, {when}", *(f"{cell['rows'][way]['cpu_ms']:.1f}" for cell in cells[when])]
        for way, title in ways.items()
        for when in files
    ]
    return table(["boxes", *(str(cell["boxes"]) for cell in cells["now"])], rows)


def training() -> str:
    """Processor milliseconds of a training step, and how many times ours."""
    titles = {"ours": "`Trainer`", "old": "`Trainer` before", "torchreid": "Torchreid's engine"}
    starts = ("training-peers-cpu-osnet_x0_25.json", "training-peers-weights-cpu-osnet_x0_25.json")
    reports = [results(name)["rows"] for name in starts]
    rows = [
        [title, *(f"{rows[who]['cpu_ms']:,.0f} ({1 / rows[who]['cpu_ratio']:.2f})" for rows in reports)]
        for who, title in titles.items()
    ]
    return table(["", "from random weights", "from `osnet_x0_25_msmt17`"], rows)


NETWORKS = ("osnet_x0_25", "osnet_x1_0")
RUNTIMES = {
    "torchreid": "torchreid",
    "onnxruntime": "`onnxruntime`",
    "openvino": "`openvino`",
    "boxmot": "boxmot 25.0.0 with our `.onnx`",
}


def inference() -> str:
    """The network alone: times as fast as torchreid, and percent of the machine's peak."""
    cells = [cell for model in NETWORKS for cell in results(f"inference-cpu-{model}.json")["cells"]]
    rows = [
        [
            title,
            *(f"{cell['rows'][way]['ratio']:.1f} ({100 * cell['rows'][way]['share_of_peak']:.0f})" for cell in cells),
        ]
        for way, title in RUNTIMES.items()
    ]
    return table(["", *(f"{_width(cell['model'])}, batch {cell['batch']}" for cell in cells)], rows)


def extraction() -> str:
    """From JPEG files to embeddings: times as fast as torchreid."""
    reports = [results(f"extraction-cpu-{model}.json") for model in NETWORKS]
    sizes = [(report["model"], name, size["rows"]) for report in reports for name, size in report["sizes"].items()]
    rows = []
    for way in ("onnxruntime", "openvino"):
        ratios = [f"{found[way]['ratio']:.1f}" if way in found else "" for _, _, found in sizes]
        rows.append([RUNTIMES[way], *ratios])
    return table(["", *(f"{_width(model)}, {name.replace('x', ' x ')}" for model, name, _ in sizes)], rows)


def _width(model: str) -> str:
    """osnet_x0_25 -> x0.25."""
    return model.removeprefix("osnet_").replace("_", ".")


def readme_rows() -> list[str]:
    """The rows of README's table that are measured speeds; all but the last cell is their name."""
    single = [
        next(cell for cell in results(f"inference-cpu-{model}.json")["cells"] if cell["batch"] == 1)["rows"]
        for model in NETWORKS
    ]
    network = " / ".join(f"{rows['onnxruntime']['ratio']:.1f}" for rows in single)
    scoring = results("evaluation-cpu-again.json")["sizes"]["market1501"]
    ours, theirs = (max(run["beyond_gb"] for run in scoring["runs"][who]) for who in ("ours", "cython"))
    return [
        "| the network alone, one crop, two CPU cores, OSNet x0.25 / x1.0, against Torchreid | 1 | "
        f"{network} times as fast |",
        "| scoring Market-1501 (3,368 x 15,913), against Torchreid's Cython code | 1 | "
        f"{scoring['times_as_fast_as_cython']:.1f} times as fast, {ours:.2f} GB instead of {theirs:.2f} GB |",
    ]


def fill_rows(page: str, rows: list[str]) -> str:
    """The page with each row in the place of the line with the same cells but the last.

    Raises:
        SystemExit: there is no such line, or several.
    """
    lines = page.split("\n")
    for row in rows:
        name = row.rsplit("|", 2)[0]
        places = [number for number, line in enumerate(lines) if line.startswith(name)]
        if len(places) != 1:
            raise SystemExit(f"README.md must have one row {name}")
        lines[places[0]] = row
    return "\n".join(lines)


def machine_code() -> str:
    """Processor milliseconds per frame, for machine code and ONNX Runtime."""
    rows = []
    for model in ("x0_25", "x0_5"):
        for cell in results(f"machine-code-cpu-osnet_{model}.json")["cells"]:
            ours, other = (cell["rows"][f"embed {name}"]["cpu_ms"] for name in ("native", "onnxruntime"))
            rows.append(
                [model.replace("_", "."), str(cell["boxes"]), f"{ours:.1f}", f"{other:.1f}", f"{other / ours:.2f}"]
            )
    return table(["", "boxes", "machine code", "ONNX Runtime", "ratio"], rows)


def table_a() -> str:
    """The supplement's Table A, printed and counted."""
    rows = []
    for row in TABLE_A:
        cost = count_cost(build_network(VARIANTS[row.model].config, "meta"), (224, 224), 1000)
        counted = (f"{cost.params / 1e6:.3f}M", f"{cost.madds / 1e6:.1f}M")
        rows.append([row.label, row.params, counted[0], row.madds or "-", counted[1], str(row.top1 or "-")])
    heads = ["network", "params printed", "counted", "multiply-adds printed", "counted", "top-1 published"]
    return table(heads, rows)


def table_8() -> str:
    """OSNet in the paper's Table 8, printed and counted."""
    rows = []
    for data, num_classes in (("cifar10", 10), ("cifar100", 100)):
        for network, layers, printed in (("osnet-x1-0", 78, "2.2M"), ("osnet-3-8-6", 210, "4.6M")):
            recipe = get_recipe(f"{data}-{network}")
            config = get_config(recipe.model, **recipe.network_settings())
            cost = count_cost(build_network(config, "meta"), (32, 32), num_classes)
            counted = (f"{cost.params / 1e6:.3f}M", f"{cost.madds / 1e6:.1f}M")
            rows.append([f"`{recipe.name}`", str(layers), printed, *counted, f"{ERRORS[data, network]:.2f}"])
    return table(["recipe", "layers", "params printed", "counted", "multiply-adds counted", "error printed, %"], rows)


def city() -> str:
    """The simulated day: sizes, and a row for each number of workers."""
    report = results("city-1000-cameras.json")
    sizes = report["sizes"]
    rows = [
        [
            str(day["workers"]),
            percent(day["busy_share"]),
            f"{day['delay_minutes']['p50']}",
            f"{day['delay_minutes']['p95']}",
            f"{day['delay_minutes']['p100']}",
            str(day["longest_queue"]),
            f"{percent(day['lost_share'])}",
            str(day["set_aside"]),
        ]
        for day in report["days"]
    ]
    heads = ["cores", "busy, %", "delay p50, min", "p95", "longest", "longest queue", "lost work, %", "set aside"]
    return (
        f"{sizes['segments']:,} segments, {sizes['tracklets_million']} million tracklets, {sizes['gallery_gb']} GB of "
        f"gallery, {sizes['core_hours']:,} core hours.\n\n{table(heads, rows)}\n\nThe delay is from the end of a "
        "segment to its result. Busy can exceed 100 %, because it includes the work that still waits at midnight."
    )


PROGRAMS = {
    "gallery": "folder gallery",
    "edge": "Qdrant Edge",
    "faiss_flat": "FAISS Flat",
    "numpy_top": "NumPy: product, ten best",
    "numpy_product": "NumPy: product alone",
}


def stores() -> str:
    """The folder gallery beside others, in processor time."""
    rows = []
    for num_rows in (20_000, 1_000_000, 10_000_000):
        report = results(f"stores-{num_rows}.json")
        own = report["gallery"]
        alone = {"gallery_1": "search_1", "gallery_filter": "filter_1_percent", "gallery_64": "search_64"}
        turn = report.get("in_turn") or {key: own[value] for key, value in alone.items()}
        for program, title in PROGRAMS.items():
            if f"{program}_1" not in turn:
                continue
            times = {kind: turn.get(f"{program}_{kind}") for kind in ("1", "filter", "64")}
            times |= {"gallery": own, "edge": report.get("qdrant_edge", {})}.get(program, {})
            found = [times.get(key) for key in ("open", "1", "filter", "64", "add_1000", "erase_one_person")]
            shown = [f"{time['cpu_ms']:,.{int(time['cpu_ms'] < 100)}f}" if time else "-" for time in found]
            disk = f"{times['disk_mb']:,.0f}" if "disk_mb" in times else "-"
            rows.append([f"{num_rows:,}", title, *shown, disk])
    heads = [
        "items",
        "program",
        "open",
        "search",
        "filter to 1.4 %",
        "64 queries",
        "add 1,000",
        "erase a person",
        "disk, MiB",
    ]
    compared = [results(f"stores-{rows}.json") for rows in (20_000, 1_000_000)]
    recall = min(report[f"{name}recall_at_10_of_16_queries"] for report in compared for name in ("", "edge_"))
    most, million = results("stores-10000000.json")["gallery"], compared[1]
    product, search = (million["in_turn"][name]["cpu_ms"] for name in ("numpy_product_1", "gallery_1"))
    edge = million["qdrant_edge"]
    return (
        f"{table(heads, rows)}\n\nMilliseconds of processor time with one thread, the smallest of several runs in "
        f"which the programs took turns. Recall at 10 against float64: {recall:.3f}. Up to 1,000,000 items: "
        f"{million['cpu']} (Emerald Rapids), NumPy {million['numpy']} with OpenBLAS's {million['blas_kernel']} kernel. "
        "10,000,000 items: an earlier version on an Intel Xeon (Cascade Lake) that was busy with other work. Compare "
        "rows of the same machine only.\n\n"
        f"A search of a million items takes {search / product:.2f} of the time of the product alone. The items are of "
        "20 cameras and 7 days, so 1,000 new items are spread over 140 files, the worst case. Qdrant Edge "
        f"{edge['version']} searches exactly, too, without a graph. It is set up to erase: it then rewrites all "
        f"segments with deleted points. Filling it with a million items took {million['edge_fill_s']:.0f} s, the "
        f"gallery {million['fill_s']:.0f} s (elapsed, beside other work). NumPy and FAISS hold all vectors "
        "in memory, 1,953 MiB a million. After opening and searching a million, the gallery has "
        f"{million['gallery']['memory_own_mb']:.0f} "
        f"MiB of its own, Qdrant Edge {edge['memory_own_mb']:.0f}; both map their files.\n\n"
        "The 10,000,000 items were measured alone and not compared with float64: the product needs 20 GB of memory. "
        "There, a search after opening uses "
        f"{most['memory_own_mb']:.0f} MB of its own and maps {most['memory_mapped_mb'] / 1000:.1f} GB of the files; "
        f"the first, which reads them from the disk, took {most['first_search']['wall_ms'] / 1000:.0f} s, the best of "
        f"the later ones {most['search_1']['wall_ms'] / 1000:.1f} s (elapsed)."
    )


def intel_scores() -> str:
    """Intel's networks beside the published OSNet x0.25, on Market-1501 and on a part of MARS, with their speed."""
    report = results("permissive-weights.json")
    speeds = report.get("speed", {}).get("rows", {})
    rows = []
    for name, found in report["scores"].items():
        market, mars = found.get("market1501"), found.get("mars-mini")
        scores = [f"{row['rank1']:.2f} / {row['mAP']:.2f}" if row else "-" for row in (market, mars)]
        speed = speeds.get(found["model"])
        ratios = [f"{speed[key]:.2f}" if speed else "-" for key in ("beside_x0_25", "beside_x1_0")]
        rows.append([f"`{name}`", f"{found['params']:,}", *scores, *ratios])
    heads = ["weights", "parameters", "Market-1501", "MARS, 16 people", "times as fast as x0.25", "as x1.0"]
    return table(heads, rows)


def things() -> str:
    """The example with things instead of people."""
    report = results("things-cpu.json")
    scores, counts, threshold = report["scores"]["scores"], report["scores"]["counts"], report["threshold"]
    right, wrong = threshold["num_positives"], threshold["num_negatives"]
    return (
        f"With {report['scores']['photographs']}, half of them for training, one run: {counts['query']['images']} "
        f"queries, {counts['gallery']['images']} gallery images, rank-1 {percent(scores['rank-1'])} % "
        f"({percent(right / (right + wrong))} % by chance), mAP {percent(scores['mAP'])} %. The threshold that accepts "
        f"1 % of the pairs of different things misses {percent(threshold['misses']['mean'])} % of the others. So the "
        "commands work on things; a network trained on 100 things for a few minutes is a weak one."
    )


def parts() -> str:
    """Shares of activation maps on logo, bag and shirt, beyond controls."""

    def show(found: dict[str, float], signed: bool = False) -> str:
        mean, low, high = (100 * found[key] for key in ("mean", "low", "high"))
        return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]" if signed else f"{mean:.1f} [{low:.1f}, {high:.1f}]"

    report = results("part-shares.json")
    rows = []
    for name, found in report["networks"].items():
        for part in ("logo", "bag", "shirt"):
            row, beyond = found[part], found[part]["beyond"]
            without = show(beyond["without the part"], True) if "without the part" in beyond else "-"
            others = [show(beyond[key], True) for key in ("another person", "noise")]
            shown = f"{100 * row['share']['mean']:.1f} ({100 * row['uniform']['mean']:.1f})"
            rows.append([f"`{name}`", part, str(row["images"]), shown, without, *others])
    telling = ", ".join(f"`{name}` {show(found['telling']['closer'])} %" for name, found in report["networks"].items())
    heads = ["network", "part", "images", "share (uniform), %", "beyond: without the part", "another person", "noise"]
    closer = "The same person is closer than the twin with another logo (by chance 50 %)"
    return f"{table(heads, rows)}\n\n{closer}: {telling}."


def postgres() -> str:
    """Exact and indexed searches in PostgreSQL."""
    report = results("postgres-20000.json")
    names = ("all", "half of the cameras", "two cameras, one day")
    rows = [
        [title, *(f"{report[key][name]['best_ms']:.0f} / {report[key][name]['recall_at_10']:.2f}" for name in names)]
        for key, title in (("exact", "no index"), ("indexed, 1,000 rows exact", "HNSW, exact up to 1,000 rows"))
    ]
    erased = report["erase_one_person"]
    return (
        f"{table(['', *names], rows)}\n\n{report['rows']:,} items, PostgreSQL {report['version']}, pgvector "
        f"{report['pgvector']}. Each entry is the smallest time of {report['queries']} searches in milliseconds / "
        f"recall at 10, on a busy machine. Filling took {report['fill_s']:.0f} s, building the index "
        f"{report['index_s']:.0f} s. Erasing one person took {erased['s']:.0f} s, with the index and a search of the "
        "server's files. At this size, searches with the index are not faster."
    )


def runners() -> str:
    """What the local runner costs."""
    report = results("runners-local.json")
    rows = [
        [
            str(row["workers"]),
            f"{row['items_per_s']:.1f}",
            f"{row['ideal_items_per_s']:.0f}",
            percent(row["lost_share_with_start"]),
            percent(row["lost_share_after_start"]),
        ]
        for row in report["rows"]
    ]
    heads = ["workers", "items a second", "at best", "lost, %", "lost after the start, %"]
    return (
        f"{table(heads, rows)}\n\n{report['items']} items that wait {report['seconds_of_an_item']} s each, on a busy "
        "machine."
    )


def service_alone() -> str:
    """Milliseconds of one request at a time, beside what it is made of."""
    ways = {
        "plain_archive_search": "search in the archive by a stored embedding, without the service",
        "plain_gallery_search": "search in a gallery of the same embeddings, without the service",
        "by_tracklet": "the service: search by a tracklet, with log, 200 kept hits and the first page",
        "plain_embed": "the network for one crop",
        "by_photo": "the service: search by a photo",
    }
    alone = results("service-100000.json")["alone"]
    rows = [[title, f"{alone[way]['processor_ms']:.0f}", f"{alone[way]['p50_ms']:.0f}"] for way, title in ways.items()]
    return table(["", "processor time, ms", "median time, ms"], rows)


def service_load() -> str:
    """Latencies of many requests."""
    report = results("service-100000.json")
    rounds = {
        "one at a time, by tracklet": report["alone"]["by_tracklet"],
        f"{report['clients']} at once for 60 s, by tracklet": report["at_once"],
        f"{report['clients']} at once for 60 s, by photo": report["photos_at_once"],
        "photos of 10 MB, one at a time": report["uploads"],
        "by tracklet, beside 20 clients that send a byte each 0.1 s": report["beside_slow_clients"],
    }
    rows = [
        [title, f"{row['n']:,}", f"{row['p50_ms'] / 1000:.2f}", f"{row['p99_ms'] / 1000:.2f}",
         f"{row['per_s']:.0f}" if "per_s" in row else ""]
        for title, row in rounds.items()
    ]  # fmt: skip
    memory = ", ".join(f"{megabytes:,} {when}" for when, megabytes in report["memory_mb"].items())
    return (
        f"{table(['requests', 'number', 'p50, s', 'p99, s', 'per second'], rows)}\n\n"
        f"Errors: {len(report['errors'])}. Memory, MB: {memory}."
    )


TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "attributes.md": {
        "scores": attribute_scores,
        "thresholds": attribute_thresholds,
        "searches of the sample": lambda: searches("attribute-search-sample.json"),
        "searches of generated people": lambda: searches(
            "attribute-search-generated.json", "attribute-search-generated-scratch.json"
        ),
    },
    "figures.md": {"parts": parts},
    "weights.md": {"Intel": intel_scores, "things": things},
    "scale.md": {"city": city, "stores": stores, "postgres": postgres, "runners": runners},
    "classification.md": {
        "Table 8": table_8,
        "Table A": table_a,
        "CIFAR-10": lambda: str(benchmark("cifar_figure").markdown(results("cifar-cpu.json"))),
        "grouped": lambda: str(benchmark("variants").markdown(results("grouped-cpu.json")["results"])),
        "loading": lambda: str(benchmark("photo_loading").markdown(results("photo-loading-cpu.json")["results"])),
    },
    "speed.md": {
        "first answer": first_answers,
        "tracker": tracker,
        "denormals": denormals,
        "network alone": inference,
        "extraction": extraction,
        "training": training,
        "machine code": machine_code,
    },
    "service/administrators.md": {"service alone": service_alone, "service load": service_load},
    "video.md": {
        "tracking": lambda: str(benchmark("tracking").markdown(results("tracking.json"))),
        "pasted walks": lambda: str(benchmark("pasted_walks").markdown(results("pasted-walks.json"))),
        "costs": lambda: str(benchmark("footage_costs").markdown(results("footage-costs.json"))),
        "tracklet search": lambda: str(benchmark("tracklet_links").search_table(results("tracklet_links.json"))),
        "links": lambda: str(benchmark("tracklet_links").links_table(results("tracklet_links.json"))),
    },
}


def fill(name: str, page: str) -> str:
    """The page with its tables made again.

    Raises:
        SystemExit: the comments around a table are missing or there twice.
    """
    for title, make in TABLES[name].items():
        begin, end = f"<!-- {title} -->", f"<!-- end of {title} -->"
        if page.count(begin) != 1 or page.count(end) != 1:
            raise SystemExit(f"docs/{name} must have {begin} and {end} once each")
        before, rest = page.split(begin)
        page = f"{before}{begin}\n\n{make().strip()}\n\n{end}{rest.split(end)[1]}"
    return page


def main(arguments: list[str] | None = None) -> int:
    """Write or compare all pages; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; status 1 if a page differs")
    options = parser.parse_args(arguments)
    differing = []
    for name in (*TABLES, README):
        path = ROOT / ("" if name == README else "docs") / name
        page = path.read_text(encoding="utf-8")
        if (filled := fill_rows(page, readme_rows()) if name == README else fill(name, page)) == page:
            continue
        differing.append(name)
        if not options.check:
            path.write_text(filled, encoding="utf-8")
    sys.stdout.write(f"{', '.join(differing) or 'no page'} {'differs' if options.check else 'changed'}\n")
    return int(options.check and bool(differing))


if __name__ == "__main__":
    sys.exit(main())
