"""ExecuTorch for Samsung's Exynos NPUs, built from source with Samsung's own SDK, the Exynos AI LiteCore."""

import importlib.util
from pathlib import Path
from typing import Any

from typing_extensions import override

from export.target import TARGETS
from export.targets.parts.npu import NeedsSdk


class ExecutorchSamsung(NeedsSdk):
    """One .pte file compiled for one Exynos."""

    name = "executorch-samsung"
    precisions = ("fp16", "w8a8")
    int8 = "w8a8"
    runtime = "ExecuTorch ENN"
    accelerator = "Samsung's Exynos NPU"
    chip = "E9955"
    chip_setting = "samsung"
    sdk = (
        "Get the Exynos AI LiteCore SDK (soc-developer.semiconductor.samsung.com, with a login), set EXYNOS_AI_LITECORE_ROOT to "
        "its folder and build ExecuTorch 1.4 from source with it (backends/samsung/build.sh), into this Python: the wheel from "
        "PyPI lacks executorch.backends.samsung.python."
    )

    @override
    def lacks(self) -> bool:
        found = importlib.util.find_spec("executorch")
        places = list(found.submodule_search_locations or []) if found is not None else []
        return not any(list(Path(place).glob("backends/samsung/python/PyEnnWrapperAdaptor*")) for place in places)

    @override
    def quantizer(self) -> Any:
        from executorch.backends.samsung.quantizer.quantizer import EnnQuantizer

        return EnnQuantizer()

    @override
    def partitioner(self) -> Any:
        from executorch.backends.samsung.partition.enn_partitioner import EnnPartitioner
        from executorch.backends.samsung.serialization.compile_options import gen_samsung_backend_compile_spec

        return EnnPartitioner([gen_samsung_backend_compile_spec(self.chosen_chip)])


TARGETS.register("executorch-samsung")(ExecutorchSamsung())
