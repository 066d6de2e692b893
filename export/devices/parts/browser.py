"""Times exported ONNX files in a browser: serves the page (in page/), waits for what it posts, and makes rows of that."""

import json
import math
import queue
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np

from distill.core.errors import DistillError, UsageError
from distill.core.progress import Progress
from export.artifacts.precision import PRECISIONS
from export.artifacts.record import ExportArtifact, LatencyProfile
from export.device import DeviceInfo
from export.devices.parts.golden import OUTPUT_COSINE, golden_sample
from export.devices.parts.page_server import PageServer, Refusal, qr_code
from export.settings import ProfileSettings
from export.target import get_target

PAGE = Path(__file__).with_name("page")
TARGETS = ("onnx", "ort")
SOURCE: Final = "measured (browser)"


def page_files(name: str, runtime: Path | None) -> dict[str, Path | bytes]:
    """What every page needs: itself at "/", its script and style, and onnxruntime-web below /runtime/ where it is there."""
    files: dict[str, Path | bytes] = {"/": PAGE / f"{name}.html", f"/{name}.js": PAGE / f"{name}.js"}
    files |= {f"/{shared}": PAGE / shared for shared in ("style.css", "worker.js")}
    if runtime is not None:
        files |= {f"/runtime/{file.name}": file for file in runtime.iterdir() if file.suffix in (".mjs", ".wasm")}
    return files


def measure_in_browser(
    info: DeviceInfo,
    runtime: Path,
    artifacts: dict[Path, list[ExportArtifact]],
    settings: ProfileSettings,
    progress: Progress,
) -> dict[Path, list[LatencyProfile]]:
    """Serve the page until a browser has posted its times; folders without ONNX files get rows with the reason.

    Args:
        runtime: the folder of onnxruntime-web's files.
        settings: `lan` lets other devices of the network come, `port` 0 = any, `seconds` = how long a browser is waited for.

    Raises:
        UsageError: nothing exported is ONNX, or the port is taken.
        DistillError: no browser came or finished in time, or what it ran says something else than the model.
    """
    fit = {folder: towers for folder, towers in artifacts.items() if towers[0].target in TARGETS}
    if not fit:
        raise UsageError("Browsers run ONNX files, and none is exported here. Run: distill export RUN --target onnx")
    with tempfile.TemporaryDirectory(prefix="distill-web-") as scratch:
        files, described = _job(fit, Path(scratch))
        job = {"files": described, "runs": settings.runs, "warmup_runs": settings.warmup_runs}
        posted: queue.Queue[dict[str, Any]] = queue.Queue()

        def take(result: Any) -> dict[str, bool]:
            posted.put(checked(result, described))
            return {"taken": True}

        served = page_files("profile", runtime) | files | {"/job.json": json.dumps(job).encode()}
        server = PageServer(served, {"/result": take}, lan=settings.lan, port=settings.port)
        try:
            code = f"\n{qr_code(server.address)}" if settings.lan else ""
            progress(0, 1, f"web: open this in a browser, once: {server.address}{code}")
            result = posted.get(timeout=settings.seconds)
        except queue.Empty:
            raise DistillError(
                f"No browser posted its times in {settings.seconds:.0f} s. Open the address that was printed, and keep the page "
                "in front; a larger profile.seconds waits longer."
            ) from None
        finally:
            server.close()
    progress(1, 1, "web: done")
    rows = _rows(info, fit, result, settings)
    return {
        folder: rows.get(folder)
        or [_not_timed(info, item, f"browsers run no files of the target {item.target}") for item in towers]
        for folder, towers in artifacts.items()
    }


def _job(fit: dict[Path, list[ExportArtifact]], scratch: Path) -> tuple[dict[str, Path | bytes], list[dict[str, Any]]]:
    """The served files, and what the page is told of each tower's."""
    files: dict[str, Path | bytes] = {}
    described = []
    for folder, towers in fit.items():
        for item in towers:
            given, wanted = golden_sample(folder, item)
            if given is None:
                raise UsageError(
                    f"{str(folder)!r} holds no golden samples, which the page runs. Export again with export.golden_samples >= 1."
                )
            name = f"{folder.name}-{item.tower}"
            (scratch / f"{name}-in.bin").write_bytes(np.ascontiguousarray(given).tobytes())
            files |= {f"/{name}": folder / item.file, f"/{name}-in.bin": scratch / f"{name}-in.bin"}
            entry = {
                "name": f"{folder.name}, {item.tower}",
                "folder": folder.name,
                "tower": item.tower,
                "model": f"/{name}",
                "input": f"/{name}-in.bin",
                "type": str(given.dtype),
                "shape": list(given.shape),
                "output": "",
            }
            if wanted is not None:
                (scratch / f"{name}-out.bin").write_bytes(np.ascontiguousarray(wanted, np.float32).tobytes())
                files[f"/{name}-out.bin"] = scratch / f"{name}-out.bin"
                entry["output"] = f"/{name}-out.bin"
            described.append(entry)
    return files, described


def checked(result: Any, described: list[dict[str, Any]]) -> dict[str, Any]:
    """What a page posted, if it is of the shape that ours posts: for files of the job, with times that are times."""
    known = {(entry["folder"], entry["tower"]) for entry in described}
    rows = result["results"]
    if not rows or {(row["folder"], row["tower"]) for row in rows} != known:
        raise Refusal("These are not the files that were asked for.")
    for row in rows:
        if "error" not in row and not (
            row["ms"] and all(isinstance(ms, int | float) and 0 < ms < 1e7 for ms in row["ms"])
        ):
            raise Refusal("A time is missing or is none.")
        if "error" not in row and row["cosine"] is not None and not math.isfinite(row["cosine"]):
            raise Refusal("The output holds numbers that are not finite.")
    return {"about": dict(result["about"]), "results": rows}


def browser_name(about: dict[str, Any]) -> str:
    """For example "Chrome 156 on Linux"; the brands that a browser makes up against sniffing are passed over."""
    brands = [b for b in about.get("brands", []) if "Not" not in str(b.get("brand", ""))]
    if brands:
        best = max(brands, key=lambda brand: brand["brand"] != "Chromium")
        name = f"{best['brand']} {best['version']}"
    else:
        agent = str(about.get("agent", ""))
        found = next(
            (word for word in agent.split() if word.startswith(("Firefox/", "Version/", "Chrome/"))), "a browser"
        )
        name = found.replace("Version/", "Safari ").replace("/", " ")
    return f"{name} on {about.get('platform') or 'an unknown system'}"


def _rows(
    info: DeviceInfo, fit: dict[Path, list[ExportArtifact]], result: dict[str, Any], settings: ProfileSettings
) -> dict[Path, list[LatencyProfile]]:
    """Rows of each folder. Raises DistillError where a file says something else in the browser on every backend that ran it."""
    about = result["about"]
    rows: dict[Path, list[LatencyProfile]] = {}
    for folder, towers in fit.items():
        for item in towers:
            target = get_target(item.target, item.precision)
            own = [row for row in result["results"] if (row["folder"], row["tower"]) == (folder.name, item.tower)]
            bar = OUTPUT_COSINE[PRECISIONS[target.precision.name].closeness]
            for row in own:
                runtime = f"ONNX Runtime Web {row.get('runtime', '')}, {row['backend']} ({browser_name(about)})"
                wrong = row.get("error", "")
                if not wrong and row["cosine"] is not None and row["cosine"] < bar:
                    wrong = f"its output is not the model's: cosine {row['cosine']:.4f} to the golden one, below {bar}"
                made = (
                    _not_timed(info, item, str(wrong)[:300], runtime)
                    if wrong
                    else _measured(info, runtime, item, row, about, settings)
                )
                rows.setdefault(folder, []).append(made)
    measured = [row for own in rows.values() for row in own if row.source == SOURCE]
    if not measured:
        why = "; ".join(f"{row.tower}: {row.note}" for own in rows.values() for row in own)
        raise DistillError(f"The browser ran no file well. {why}")
    return rows


def _measured(
    info: DeviceInfo,
    runtime: str,
    item: ExportArtifact,
    row: dict[str, Any],
    about: dict[str, Any],
    settings: ProfileSettings,
) -> LatencyProfile:
    secure = "" if about.get("secure") else "; opened without a secure context: one thread, no WebGPU"
    p50, p90, p99 = (round(float(value), 4) for value in np.percentile(row["ms"], [50, 90, 99]))
    return LatencyProfile(
        device=info.name,
        runtime=runtime,
        tower=item.tower,
        precision=item.precision,
        source=SOURCE,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        threads=int(row["threads"]),
        batch=int(item.options.get("batch", 1)),
        runs=len(row["ms"]),
        warmup_runs=settings.warmup_runs,
        rounds=1,
        note=f"a page in a browser, not an app{secure}",
        load_ms=round(float(row["load_ms"]), 3),
        output_cosine=None if row["cosine"] is None else round(float(row["cosine"]), 6),
        conditions={"browser": about, "adapter": row.get("adapter", "")},
    )


def _not_timed(
    info: DeviceInfo, item: ExportArtifact, reason: str, runtime: str = "ONNX Runtime Web"
) -> LatencyProfile:
    return LatencyProfile(info.name, runtime, item.tower, item.precision, "not measured", note=reason)
