"""Choosing among 60 students by predicted latency on this host, calibrated with five anchors, against choosing by measured latency.

    python -m benchmarks.latency_choice [--anchors]

Ten image towers and six text towers, none of them an anchor, make 60 students. Each tower is exported to ONNX with random
weights and timed by ONNX Runtime, as `distill profile` does it but without parity; a student's latency is the sum of its towers'.
What stands for quality is the logarithm of its parameters, since none is trained: the question is only whether predictions choose
the same students. --anchors calibrates the host first; without it the newest calibration is taken.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from scipy.stats import spearmanr

from distill.core.clip.model import build_clip
from distill.core.torch_compat import ensure_torchvision
from export.latency.anchors import calibrations
from export.latency.graph.build import clip_operations
from export.latency.graph.features import totals
from export.settings import ProfileSettings

IMAGES = (
    ("mobilenetv3_large_100", 224), ("mobilenetv4_conv_small", 224), ("mobilenetv4_conv_medium", 256), ("fastvit_t8", 256),
    ("fastvit_sa12", 256), ("fastvit_mci1", 256), ("repvit_m0_9", 224), ("resnet18", 224), ("efficientnet_b0", 224),
    ("vit_small_patch16_224", 224),
)  # fmt: skip
TEXTS = ((12, 384), (8, 512), (6, 512), (6, 384), (4, 512), (3, 256))
ROUNDS, CALLS = 4, 12
BUDGETS = (0.15, 0.25, 0.4, 0.6, 0.8)  # shares of the way from the fastest to the slowest student


def image_config(name: str, size: int) -> dict:
    pool = "token" if name.startswith("vit") else "avg"
    vision = {"timm_model_name": name, "timm_model_pretrained": False, "timm_pool": pool, "timm_proj": None}
    text = {"context_length": 8, "vocab_size": 64, "width": 64, "heads": 1, "layers": 1}
    return {"embed_dim": 512, "vision_cfg": {**vision, "image_size": size}, "text_cfg": text}


def text_config(layers: int, width: int) -> dict:
    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": width, "heads": width // 64, "layers": layers}
    return {"embed_dim": 512, "vision_cfg": vision, "text_cfg": text}


class Text(torch.nn.Module):
    def __init__(self, clip: torch.nn.Module) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.clip.encode_text(tokens)


def exported(config: dict, tower: str, file: Path) -> onnxruntime.InferenceSession:
    """The tower as an ONNX file, folded as for a phone, loaded with one thread."""
    from timm.layers import set_fused_attn
    from timm.utils import reparameterize_model

    set_fused_attn(False)
    clip = reparameterize_model(build_clip(config, seed=0).eval(), inplace=True)
    size = config["vision_cfg"]["image_size"]
    given = torch.rand(1, 3, size, size) if tower == "image" else torch.randint(1, 400, (1, 77))
    program = torch.onnx.export(
        clip.visual if tower == "image" else Text(clip), (given,), dynamo=True, verbose=False, optimize=True
    )
    program.save(file)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    session.given = {session.get_inputs()[0].name: given.numpy()}
    return session


def timed(sessions: dict) -> dict:
    """Median milliseconds of each; rounds alternate, so that a slow minute hits all."""
    times: dict = {name: [] for name in sessions}
    for turn in range(ROUNDS):
        for name in list(sessions) if turn % 2 == 0 else list(sessions)[::-1]:
            session = sessions[name]
            for call in range(CALLS + 2):
                begun = time.perf_counter()
                session.run(None, session.given)
                if call > 1:
                    times[name].append((time.perf_counter() - begun) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anchors", action="store_true", help="calibrate this host first")
    if parser.parse_args().anchors:
        from export.latency.calibrate import calibrate

        calibrate("host", ProfileSettings(runs=48, rounds=4), progress=lambda done, total, note: print(note))
    ensure_torchvision()
    own = next((one for one in calibrations() if one.name == "host" and one.target == "onnx-fp32"), None)
    if own is None:
        raise SystemExit("This host is not calibrated: give --anchors.")
    configs = {("image", *choice): image_config(*choice) for choice in IMAGES}
    configs |= {("text", *choice): text_config(*choice) for choice in TEXTS}
    with tempfile.TemporaryDirectory() as folder:
        sessions = {
            key: exported(config, key[0], Path(folder) / f"{index}.onnx")
            for index, (key, config) in enumerate(configs.items())
        }
        measured = timed(sessions)
    operations = {key: clip_operations(config, key[0]) for key, config in configs.items()}
    said = {key: own.predict(ops) for key, ops in operations.items()}
    print("| tower | measured ms | predicted | interval |\n|---|---:|---:|---:|")
    for key, ms in measured.items():
        print(
            f"| {' '.join(map(str, key))} | {ms:.2f} | {said[key][0]:.2f} | {said[key][1]:.2f} to {said[key][2]:.2f} |"
        )
    students = [(image, text) for image in configs if image[0] == "image" for text in configs if text[0] == "text"]
    truth = np.array([measured[image] + measured[text] for image, text in students])
    guess = np.array([said[image][0] + said[text][0] for image, text in students])
    upper = np.array([said[image][2] + said[text][2] for image, text in students])  # what `distill choose` goes by
    worth = np.array([np.log(sum(totals(operations[key])["mweights"] for key in pair)) for pair in students])
    inside = np.mean([said[key][1] <= ms <= said[key][2] for key, ms in measured.items()])
    print(
        f"\n{len(students)} students: Spearman {spearmanr(truth, guess)[0]:.3f}, mean error {100 * np.mean(abs(guess / truth - 1)):.1f} %"
    )
    print(f"towers inside their 90 % interval: {100 * inside:.0f} %")
    print(
        "\n| budget ms | best by measurement | by prediction | its ms | parameters kept | by the upper end | its ms | parameters kept |"
        "\n|---:|---|---|---:|---:|---|---:|---:|"
    )
    scale = np.exp(np.median(np.log(truth / guess)))  # shown, not used
    for share in BUDGETS:
        budget = truth.min() + share * (truth.max() - truth.min())
        best = max(np.flatnonzero(truth <= budget), key=lambda index: worth[index])
        cells = [f"{budget:.1f}", name(students[best])]
        for by in (guess, upper):
            allowed = np.flatnonzero(by <= budget)
            if not len(allowed):
                cells += ["none", "", ""]
                continue
            chosen = max(allowed, key=lambda index: worth[index])
            over = ", over" if truth[chosen] > budget else ""
            kept = 100 * np.exp(worth[chosen] - worth[best])
            cells += [name(students[chosen]), f"{truth[chosen]:.1f}{over}", f"{kept:.0f} %"]
        print(f"| {' | '.join(cells)} |")
    print(
        f"\npredictions are {scale:.2f} times too small in the median"
        if scale > 1
        else f"\npredictions are {1 / scale:.2f} times too large in the median"
    )


def name(pair: tuple) -> str:
    return f"{pair[0][1]}@{pair[0][2]} + {pair[1][1]}x{pair[1][2]}"


if __name__ == "__main__":
    main()
