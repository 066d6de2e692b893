"""Core AI (iOS, iPadOS and macOS 27), as an .aimodel package. In beta, as its packages are. Left out: files compiled ahead of time
for one chip (Xcode's coreai-build, on a Mac; a phone otherwise does it at the first load), both towers in one package.

Its Linux wheel runs the packages on the CPU, in fp32 as fast as others, in fp16 some hundred times slower: there only as many
inputs are compared as a minute or two allows. The packages pin others, hence an environment. Nothing here is imported
outside of it.
"""

import asyncio
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from distill.core.packages.environment import Environment
from export.app.form import batches
from export.artifacts.record import Operations, Tower
from export.target import INPUT_NAMES, OUTPUT_NAMES, TARGETS, Runner, Target

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from distill.core.arrays import Array
    from export.app.licence import Notice

ENTRY = "main"  # of the one function in a package
GROUP = 16  # output channels that share a palette


class CoreAi(Target):
    """One .aimodel folder. What is quantized is computed in fp32; the interface is float32 at every precision."""

    name = "coreai"
    precisions = ("fp32", "fp16", "w8", "p8", "p6", "p4", "w8a8")
    int8 = "w8"
    suffix = ".aimodel"
    requires = {}  # noqa: RUF012
    runtime = "Core AI"
    package = "coreai-core"
    environment = Environment(
        "coreai",
        requirements=("coreai-core==1.0.0b3", "coreai-torch>=0.4.3,<0.5", "coreai-opt>=0.4,<0.5", "scikit-learn>=1.4"),
        modules=(
            "coreai.runtime",
            "coreai_torch",
            "coreai_opt.casting",
            "coreai_opt.coreai_utils",
            "coreai_opt.quantization",
            "sklearn.cluster",
        ),
        gigabytes=1.5,
    )
    check_seconds = 60.0

    @property
    @override
    def runs_on(self) -> str:
        return "Core AI of iOS 27, iPadOS 27, macOS 27 and later"

    @property
    @override
    def checked_by(self) -> str:
        return "Core AI's runtime on this Mac" if sys.platform == "darwin" else "Core AI's own runtime, on this CPU"

    @property
    @override
    def no_latency(self) -> str | None:
        if sys.platform != "darwin":
            return (
                "Core AI's runtime for this system is for checking numbers, and many times slower than an Apple device"
            )
        return super().no_latency

    @override
    def convert(
        self, program: "ExportedProgram", tower: Tower, path: Path, *, calibration: "Array | None" = None
    ) -> Operations:
        """Write the tower. Unlike other targets', the bytes of two conversions differ, in tables at the end of the program."""
        from coreai_torch import TorchConverter, get_decomp_table

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch deprecating what the converter uses
            if calibration is not None:
                program = _calibrated(program, calibration)
            program = program.run_decompositions(get_decomp_table())
            if self.precision.name == "fp16":
                program = _halved(program)
            # DEBUG, the default, writes this machine's paths into the package.
            converter = TorchConverter(mode=TorchConverter.Mode.RELEASE)
            model = converter.add_exported_program(
                program, input_names=[INPUT_NAMES[tower]], output_names=[OUTPUT_NAMES[tower]], entrypoint_name=ENTRY
            ).to_coreai()
            if self.precision.closeness == "quantized":
                model = _compressed(model, self.precision.name)
            model.save_asset(path)
        return _operations(path)

    @override
    def sign(self, path: Path, tower: Tower, notice: "Notice") -> None:
        from coreai.authoring import AIModelAsset

        def write(metadata: Any) -> None:
            metadata.license, metadata.author = notice.licence, notice.origin
            metadata.model_description = notice.describe(tower)
            metadata.creation_date = None

        AIModelAsset.load(path).update_metadata(write)

    @override
    def load(self, path: Path, threads: int = 1) -> Runner:
        """As every target's; `threads` is without effect: the runtime chooses its own."""
        import numpy as np
        from coreai.authoring import AIModelAsset
        from coreai.runtime import NDArray

        loop = asyncio.new_event_loop()  # the runtime's calls are coroutines; runners are plain functions
        asset = AIModelAsset.load(path)
        model = loop.run_until_complete(asset.executable().__aenter__())
        function = model.load_function(ENTRY)
        summary = asset.summary(include_statistics=False)
        ((given, _),) = dict(summary.function_inputs(ENTRY)).items()
        ((made, _),) = dict(summary.function_outputs(ENTRY)).items()

        def run(value: "Array") -> "Array":
            found = loop.run_until_complete(function({given: NDArray(np.ascontiguousarray(value))}))
            return np.array(found[made].numpy(), dtype=np.float32)

        return run


def _halved(program: "ExportedProgram") -> "ExportedProgram":
    """The program in fp16 throughout, float32 outside: Core AI's own cast makes the interface fp16 too."""
    import torch
    from coreai_opt.casting import cast_fp32_to_fp16
    from coreai_torch import get_decomp_table

    (example,) = program.example_inputs[0]
    inner = cast_fp32_to_fp16(program).module()

    class Outside(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, value: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.inner(value.half() if value.is_floating_point() else value)
            return result.float()

    halved: ExportedProgram = torch.export.export(Outside(), (example,)).run_decompositions(get_decomp_table())
    return halved


def _calibrated(program: "ExportedProgram", samples: "Array") -> "ExportedProgram":
    """The program with int8 weights, and int8 inputs to its convolutions and linear layers, by scales learned from real inputs.

    Apple's default quantizes every operation it knows, its output too, which costs a ViT most of what tells inputs apart.
    """
    import torch
    from coreai_opt import ExportBackend
    from coreai_opt.quantization import ModuleQuantizerConfig, Quantizer, QuantizerConfig
    from coreai_opt.quantization.config.quantization_config import OpQuantizerConfig

    layer = OpQuantizerConfig(op_output_spec=None)
    plain = ModuleQuantizerConfig(
        op_input_spec=None,
        op_output_spec=None,
        op_state_spec=None,
        op_type_config=dict.fromkeys(("linear", "conv2d"), layer),
    )
    (example,) = program.example_inputs[0]
    quantizer = Quantizer(program.module(check_guards=False), QuantizerConfig(global_config=plain))
    prepared = quantizer.prepare((example,))
    with torch.no_grad(), quantizer.calibration_mode():
        for rows in batches(samples, len(example)):
            prepared(torch.from_numpy(rows.copy()))
    made = quantizer.finalize(backend=ExportBackend.CoreAI)
    result: ExportedProgram = torch.export.export(made, (example,))
    return result


def _operations(path: Path) -> Operations:
    from coreai.authoring import AIModelAsset

    found = AIModelAsset.load(path).summary().operation_distribution
    return Operations({name: count for name, count in found if name != "constant"})


def _compressed(model: Any, precision: str) -> Any:
    from coreai_opt import coreai_utils

    if precision in ("w8", "w8a8"):  # of what was calibrated: what is no layer, a table of embeddings
        return coreai_utils.quantize_weights(model, coreai_utils.DType.INT8)
    return coreai_utils.palettize_weights(
        model,
        lut_dtype=None,
        n_bits=int(precision.removeprefix("p")),
        granularity=coreai_utils.CompressionGranularity.PER_GROUPED_CHANNEL,
        group_size=GROUP,
        num_kmeans_workers=1,
    )


TARGETS.register("coreai")(CoreAi())
