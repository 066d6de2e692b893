"""The number types that embeddings are stored in: their names, what NumPy sees of them, what each may lose.

Importable without NumPy. How rows become such numbers is in `codec`.
"""

from typing import Literal, get_args

EmbedDtype = Literal["fp32", "bf16", "fp16", "int8"]
# In what arithmetic teachers label: "no" = float32, else torch's autocast; the words are those of train.precision.
TeacherPrecision = Literal["no", "bf16", "fp16"]
EMBED_DTYPES: tuple[str, ...] = get_args(EmbedDtype)
# What NumPy sees of a stored number; bf16 has no NumPy type and is kept as the upper half of a float32.
NUMPY_DTYPES = {"fp32": "<f4", "fp16": "<f2", "bf16": "<u2", "int8": "i1"}
# Least cosine between a stored row and the float32 row it came from that `verify` accepts.
MIN_COSINE = {"fp32": 0.99999, "fp16": 0.9999, "bf16": 0.9999, "int8": 0.999}
