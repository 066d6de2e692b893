"""The embedded default teacher: a small full CLIP trained by this toolkit on the rendered set, inside the package.

Its width and input size are read from the folder, so that retraining it cannot make this file lie; 0 while absent.
"""

import json
from importlib.resources import files

from distill.core.clip.folder import CONFIG_FILE
from teachers.spec import TEACHERS, TeacherSpec

FOLDER = "weights/rendered"


def _model_cfg() -> dict[str, dict[str, int]]:
    config = files("teachers").joinpath(FOLDER, CONFIG_FILE)
    return dict(json.loads(config.read_text(encoding="utf-8"))["model_cfg"]) if config.is_file() else {}


_cfg = _model_cfg()
TEACHERS.register("rendered")(
    TeacherSpec(
        name="rendered",
        loader="folder",
        source=f"package:{FOLDER}",
        width=int(str(_cfg.get("embed_dim", 0))),
        image_size=_cfg.get("vision_cfg", {}).get("image_size", 0),
        logit_scale=None,
        kind="softmax",
        licence="Apache-2.0",
        commercial=True,
    )
)
