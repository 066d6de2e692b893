"""How much a pair counts, by how well the teachers think that image and captions agree (ALIP, arXiv 2308.08428).

With S_tc the cosine of a sample's real and synthetic caption, S_t and S_c those of its image with either, H their means
and T the temperature (the released code squares exp(S - H), which is T = 0.5):

    g = exp((S_tc - H_tc) / T)        the language gate; the sample counts min(g, 1)
    p = exp((S_t - H_t) / T)          the description gate of the pair, 1 where g >= 1; likewise for the caption

and a pair counts min(g, 1) p. Two changes: the embeddings are those of frozen teachers (the mean over them of S), not of
the model in training, and H is the mean of the global batch, not a running one, so that a step depends on its batch
alone and resumes exactly. With one caption per sample there is no S_tc and the weight is exp((S - H) / T).
Which pairs a batch holds and what the weights do to a loss is decided elsewhere.
"""

import torch
from torch import Tensor

from distill.learning.embeddings import Embeddings


def consistency_weights(streams: list[dict[str, Embeddings]], temperature: float) -> list[Tensor]:
    """The weights [B] of all ranks' pairs, one tensor per stream of captions, not normalised.

    Args:
        streams: per stream, teacher name -> that teacher's embeddings. Two streams are real and synthetic captions.
        temperature: T, above 0.
    """
    gates = [_gate([(t.all_image, t.all_text) for t in stream.values()], temperature) for stream in streams]
    if len(streams) != 2:
        return gates
    real, synthetic = streams
    language = _gate([(real[name].all_text, synthetic[name].all_text) for name in real], temperature)
    noisy = language < 1 - 1e-5  # rounding alone shall not close the gate of captions that all agree
    return [language.clamp(max=1) * torch.where(noisy, gate, torch.ones_like(gate)) for gate in gates]


def _gate(sides: list[tuple[Tensor, Tensor]], temperature: float) -> Tensor:
    """exp((S - H) / T), [B], for the mean over teachers of the cosines S of matching rows."""
    similarity = torch.stack([(a * b).sum(-1) for a, b in sides]).mean(0)
    return ((similarity - similarity.mean()) / temperature).exp()


def normalised(weights: Tensor) -> Tensor:
    """Weights [B] scaled to a mean of 1; all 1 where every weight is 0."""
    mean = weights.mean()
    return torch.where(mean > 0, weights / mean.clamp(min=torch.finfo(weights.dtype).tiny), torch.ones_like(weights))
