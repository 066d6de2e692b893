"""Duplicates and decontamination against brute force and planted copies."""

import io

import numpy as np
import pytest
from PIL import Image

from distill.core.errors import UsageError
from reinforced_data.curation import neighbours
from reinforced_data.curation.image_hash import near_hashes, perceptual_hash
from reinforced_data.curation.kmeans import assign, spherical_kmeans
from reinforced_data.curation.neighbours import Groups, near_pairs, nearest_of
from reinforced_data.sample import Caption, RawSample, ZeroShotTask
from tests.reinforced_data.curation.planted import PlantedTeacher, plain, planted_set, select, unit_vectors
from tests.reinforced_data.stubs import ListSource, StubTeacher, encoded, picture


def brute_groups(cosine, minimum):
    """Connected components by flooding, as sets of rows."""
    left, groups = set(range(len(cosine))), []
    while left:
        group, edge = set(), [min(left)]
        while edge:
            row = edge.pop()
            if row not in group:
                group.add(row)
                edge += [j for j in range(len(cosine)) if cosine[row, j] >= minimum]
        groups.append(group)
        left -= group
    return groups


@pytest.fixture(scope="module")
def crowd():
    """300 vectors: 60 directions, each with one to nine neighbours at growing distance."""
    rng = np.random.default_rng(4)
    axes = unit_vectors(60, 16, 1)
    vectors = np.stack([axes[rng.integers(60)] + 0.06 * rng.normal(size=16) * rng.random() for _ in range(300)])
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("block", [7, 2048])
def test_near_duplicates_equal_brute_force(crowd, tmp_path, monkeypatch, block):
    monkeypatch.setattr(neighbours, "BLOCK", block)
    keys = [f"k{i:03d}" for i in np.random.default_rng(0).permutation(300)]
    data = planted_set(tmp_path / "s", [PlantedTeacher(crowd)], keys=keys)
    outcome, kept = select(data, "duplicates:min=0.985")
    cosine = crowd.astype(np.float64) @ crowd.astype(np.float64).T
    groups = brute_groups(cosine, 0.985)
    assert 60 < len(groups) < 290
    assert sorted(np.flatnonzero(kept)) == sorted(min(group, key=lambda i: keys[i]) for group in groups)
    np.fill_diagonal(cosine, -1)
    assert np.allclose(outcome.scores, cosine.max(1), atol=1e-6)
    assert outcome.facts["groups"] == sum(len(group) > 1 for group in groups)
    assert outcome.facts["largest_group"] == max(map(len, groups))
    for pair in outcome.facts["examples"]:
        (group,) = [g for g in groups if keys.index(pair["dropped"]) in g]
        assert pair["kept"] == min(keys[i] for i in group)


def test_beyond_the_exact_size_clusters_find_nearly_all_pairs(crowd, monkeypatch):
    exact = {(i, j) for left, right, _, _ in near_pairs(crowd, 0.97, 0) for i, j in _pairs(left, right)}
    monkeypatch.setattr(neighbours, "EXACT_ROWS", 100)
    monkeypatch.setattr(neighbours, "CLUSTER_ROWS", 40)
    compared, found = 0, set()
    for left, right, rows, _ in near_pairs(crowd, 0.97, 0):
        found |= set(_pairs(left, right))
        compared += len(rows)
    assert found <= exact
    assert len(found) > 0.98 * len(exact) > 100
    assert compared <= 2 * len(crowd) * 2  # each row in two clusters only


def _pairs(left, right):
    return [(min(p), max(p)) for p in zip(left.tolist(), right.tolist(), strict=True) if p[0] != p[1]]


def test_copies_of_the_same_bytes_go_whatever_the_embedding(tmp_path):
    images = [plain(i) for i in (0, 1, 2, 1, 4, 1)]
    teacher = PlantedTeacher(np.eye(6))
    data = planted_set(tmp_path / "s", [teacher], keys=list("fedcba"), images=images)
    outcome, kept = select(data, "duplicates:by=bytes")
    assert kept.tolist() == [True, False, True, False, True, True]
    assert outcome.dropped["same image bytes as a kept sample"].tolist() == (~kept).tolist()
    assert outcome.scores is None
    both, _ = select(data, "duplicates:min=0.999")  # equal colours have equal embeddings here: bytes are the reason
    assert both.dropped["same image bytes as a kept sample"].sum() == 2


def scene(seed, side=160):
    return picture(seed, side, side)


def saved(image, format="JPEG", **more):
    return encoded(image, format, **more)


def test_perceptual_hash_is_the_dct_by_definition_and_survives_saving():
    image = scene(3)
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), np.float64)
    n = np.arange(32)
    basis = np.cos(np.pi * (2 * n[None, :] + 1) * n[:, None] / 64)
    low = (basis @ grey @ basis.T)[:8, :8].ravel()
    bits = "".join("1" if value > np.median(low) else "0" for value in low)
    assert perceptual_hash(image) == int(bits, 2)
    for copy in (saved(image, quality=60), saved(image.resize((90, 90))), saved(image.resize((400, 400)), "PNG")):
        other = perceptual_hash(Image.open(io.BytesIO(copy)))
        assert (other ^ perceptual_hash(image)).bit_count() <= 4
    apart = [(perceptual_hash(scene(a)) ^ perceptual_hash(scene(b))).bit_count() for a in range(12) for b in range(a)]
    assert min(apart) > 8
    assert perceptual_hash(Image.new("RGB", (50, 50), (9, 9, 9))) is None


@pytest.mark.parametrize("bits", [0, 1, 4, 16])
def test_near_hashes_equal_brute_force(bits):
    rng = np.random.default_rng(bits)
    left = rng.integers(0, 2**63, 80, dtype=np.uint64)
    right = np.concatenate([left[:40], rng.integers(0, 2**63, 30, dtype=np.uint64)])
    for row in range(40):
        for bit in rng.permutation(64)[: row % 20]:
            right[row] ^= np.uint64(1) << np.uint64(bit)
    truth = {
        (i, j): (int(a) ^ int(b)).bit_count()
        for i, a in enumerate(left)
        for j, b in enumerate(right)
        if (int(a) ^ int(b)).bit_count() <= bits
    }
    found = {}
    for i, j, distance in near_hashes(left, right, bits):
        found |= dict(zip(zip(i.tolist(), j.tolist(), strict=True), distance.tolist(), strict=True))
    assert found == truth
    assert truth


def test_duplicates_by_hash(tmp_path):
    """Three scenes, each saved in several ways, and two plain pictures, which have no structure to compare."""
    images = [
        saved(scene(0), "PNG"), saved(scene(1), quality=90), saved(scene(0), quality=70), saved(scene(2), "PNG"),
        saved(scene(1).resize((80, 80)), "PNG"), saved(scene(0).resize((300, 300)), quality=80), plain(1), plain(2),
    ]  # fmt: skip
    teacher = StubTeacher("alpha", image_size=8)
    teacher.images = images
    data = planted_set(tmp_path / "s", [teacher], images=images, captions=[[Caption("x")]] * 8)
    outcome, kept = select(data, "duplicates:by=hash")
    assert kept.tolist() == [True, True, False, True, False, False, True, True]
    assert outcome.dropped["near-duplicate (perceptual hash within 4 bits)"].sum() == 3


def test_groups_join_in_any_order():
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 200, (150, 2))
    adjacency = np.eye(200)
    adjacency[pairs[:, 0], pairs[:, 1]] = adjacency[pairs[:, 1], pairs[:, 0]] = 1
    groups = Groups(200)
    for part in np.array_split(rng.permutation(150), 9):
        groups.join(pairs[part, 0], pairs[part, 1])
    keys = [f"{i:03d}" for i in rng.permutation(200)]
    kept = groups.keepers(keys)
    for group in brute_groups(adjacency, 1):
        assert {keys[kept[i]] for i in group} == {min(keys[i] for i in group)}


def test_nearest_of_equals_brute_force(monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", 9)
    a, b = unit_vectors(50, 6).astype(np.float32), unit_vectors(31, 6, 1).astype(np.float32)
    places, cosines = nearest_of(a, b)
    truth = a.astype(np.float64) @ b.astype(np.float64).T
    assert (places == truth.argmax(1)).all()
    assert np.allclose(cosines, truth.max(1), atol=1e-6)


def test_spherical_kmeans_finds_planted_clusters_and_repeats_itself():
    rng = np.random.default_rng(2)
    axes = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    truth = rng.integers(0, 12, 600)
    vectors = axes[truth] + 0.08 * rng.normal(size=(600, 12))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    centroids = spherical_kmeans(vectors, 12, 0)
    assert np.allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-6)
    cluster, cosine = assign(vectors, centroids)
    assert len({(a, b) for a, b in zip(cluster.tolist(), truth.tolist(), strict=True)}) == 12
    assert np.allclose(cosine, (vectors * centroids[cluster]).sum(1), atol=1e-6)
    assert (spherical_kmeans(vectors, 12, 0) == centroids).all()
    same = spherical_kmeans(np.tile(vectors[:1], (5, 1)), 3, 0)  # fewer distinct vectors than clusters
    assert np.isfinite(same).all()


# --- decontamination


def photo_set(tmp_path, name, images, **more):
    teacher = StubTeacher("alpha", width=24, image_size=16, **more)
    teacher.images = images
    keys = [f"{name}{i}" for i in range(len(images))]
    return planted_set(tmp_path / name, [teacher], keys=keys, images=images, captions=[[Caption("x")]] * len(images))


def test_planted_contamination_is_found_and_nothing_else(tmp_path):
    images = [saved(scene(seed), "PNG") for seed in range(10)]
    images[3] = saved(scene(100), "PNG")  # the very bytes
    images[6] = saved(scene(101).resize((120, 120)), quality=85)  # another size and format
    data = photo_set(tmp_path, "train", images)
    photo_set(tmp_path, "eval", [saved(scene(100 + i), "PNG") for i in range(4)])
    against = tmp_path / "eval"
    outcome, kept = select(data, f"decontaminate:against={against},min=0.999")
    assert np.flatnonzero(~kept).tolist() == [3, 6]
    reasons = list(outcome.dropped)
    assert [outcome.dropped[reason][3] for reason in reasons] == [True, True, True]
    assert not outcome.dropped[reasons[0]][6]
    assert outcome.dropped[reasons[1]][6]
    assert {(m["dropped"], m["evaluation"]) for m in outcome.facts["examples"]} == {
        ("train3", "eval0"),
        ("train6", "eval1"),
    }
    assert outcome.facts["teacher"] == "alpha"
    for how, dropped in {"bytes": [3], "hash": [3, 6]}.items():
        assert np.flatnonzero(~select(data, f"decontaminate:against={against},by={how}")[1]).tolist() == dropped
    by_embedding, _ = select(data, f"decontaminate:against={against},by=embedding,min=0.999")
    ours = np.concatenate([data.image_embeds(i, "alpha") for i in range(10)]).astype(np.float64)
    from reinforced_data.store.reader import ReinforcedData

    theirs = ReinforcedData(against)
    others = np.concatenate([theirs.image_embeds(i, "alpha") for i in range(4)]).astype(np.float64)
    assert np.allclose(by_embedding.scores, (ours @ others.T).max(1), atol=1e-5)


def test_a_source_is_compared_by_bytes_and_hash_with_its_zero_shot_images(tmp_path, monkeypatch):
    from reinforced_data.curation import evaluation
    from reinforced_data.pixels.decode import BadImageError

    class Source(ListSource):
        def __getitem__(self, index):
            if index == 1:
                raise BadImageError("gone", "truncated")
            return self.samples[index]

        def zero_shot(self):
            return ZeroShotTask("shapes", (saved(scene(5), "PNG"),), (0,), ("a",), ("{}",))

    source = Source(
        [RawSample(f"e{i}", saved(scene(i), quality=80), ()) for i in (2, 9, 4)] + [RawSample("junk", b"no", ())]
    )
    monkeypatch.setattr(evaluation, "open_source", lambda location, split, columns: source)
    data = photo_set(tmp_path, "train", [saved(scene(seed), "PNG") for seed in range(7)])
    outcome, kept = select(data, "decontaminate:against=anything")
    assert np.flatnonzero(~kept).tolist() == [2, 4, 5]
    assert outcome.facts["unreadable"] == 1
    assert outcome.facts["teacher"] is None
    assert outcome.scores[5] == 64
    assert np.isnan(outcome.scores[0])
    with pytest.raises(UsageError, match="by=hash"):
        select(data, "decontaminate:against=anything,by=embedding")
    with pytest.raises(UsageError, match="not reinforced"):
        select(data, "decontaminate:against=anything,teacher=alpha")


def test_evaluation_data_have_the_image_column_that_the_training_data_were_made_with(tmp_path):
    """Where both of two columns hold images, nothing but its name says which is meant."""
    data = photo_set(tmp_path, "train", [saved(scene(seed), "PNG") for seed in range(5)])
    folder = tmp_path / "judged"
    folder.mkdir()
    for number in (1, 3):
        (folder / f"scan{number}.png").write_bytes(saved(scene(number), "PNG"))
        (folder / f"thumb{number}.png").write_bytes(saved(scene(50 + number, 20), "PNG"))
    lines = [f"scan{number}.png,thumb{number}.png,a scene" for number in (1, 3)]
    (folder / "all.csv").write_text("\n".join(["scan,thumb,caption", *lines]))
    text = f"decontaminate:against={folder / 'all.csv'},by=bytes,split=train"
    with pytest.raises(UsageError, match="--image-column"):
        select(data, text)
    data.manifest.source.columns["image"] = "scan"
    _, kept = select(data, text)
    assert len(np.flatnonzero(~kept)) == 1  # one of the two is held out
    assert {*np.flatnonzero(~kept)} < {1, 3}
    data.manifest.source.columns["image"] = "elsewhere"  # what the place lacks is passed over
    with pytest.raises(UsageError, match="--image-column"):
        select(data, text)


def test_embeddings_of_other_weights_are_not_compared(tmp_path):
    data = photo_set(tmp_path, "train", [saved(scene(seed), "PNG") for seed in range(4)])
    photo_set(tmp_path, "eval", [saved(scene(50), "PNG")], seed=9)
    assert select(data, f"decontaminate:against={tmp_path / 'eval'}")[0].facts["teacher"] is None
    with pytest.raises(UsageError, match="other weights"):
        select(data, f"decontaminate:against={tmp_path / 'eval'},teacher=alpha")
